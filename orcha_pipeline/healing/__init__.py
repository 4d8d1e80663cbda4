"""Self-healing: nodes that do not answer are restarted, seldom, one at a time, and looked at afterwards."""
