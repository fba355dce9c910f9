"""PostgreSQL and nothing else: plans, drivers, pools, scope, settings, the embedded server."""
