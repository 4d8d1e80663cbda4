"""From forecasts to a safe change: response, plan, decision, application."""
