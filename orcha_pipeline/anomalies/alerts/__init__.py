"""The life of alerts: raised, grouped by cause, told to the operator through channels, over."""
