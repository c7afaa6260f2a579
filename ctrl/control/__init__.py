"""The control socket: `fastpath show`, `monitor`, `notify`, `explain` and Prometheus reach a box through it.

`listen` binds; `server`, which brings aiohttp, answers: it is imported when the box forwards already, and
what brings prometheus_client when somebody asks for metrics.
"""
