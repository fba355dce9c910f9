"""
How a plan reaches the server: the interpreter, the pipeline, and a sync and an async driver.

`interpreter` runs a plan's batches and decides about retries, `parameters` encodes every value
before the first byte leaves, `pipeline` sends a batch as one exchange of libpq messages, and
`sync_driver` and `async_driver` do nothing but wait for the socket.
"""
