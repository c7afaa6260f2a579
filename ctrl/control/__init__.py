"""The control socket: `fastpath show`, `monitor`, `notify`, `explain` and Prometheus reach a box through it.

`listen` binds; `server`, which brings aiohttp and prometheus_client, answers: it is imported when the box
forwards already.
"""
