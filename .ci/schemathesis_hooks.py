"""What schemathesis must know of the node beyond its OpenAPI document: what would take hours, and how lines are written."""

import schemathesis


@schemathesis.hook
def map_body(context, body):
    """A difficulty of 48 bits takes years to mine."""
    if isinstance(body, dict) and isinstance(body.get("difficulty"), int):
        body["difficulty"] = min(body["difficulty"], 8) if body["difficulty"] <= 48 else body["difficulty"]
    return body


@schemathesis.hook
def map_query(context, query):
    """A wait for a leap may take an hour."""
    if query and isinstance(query.get("timeout"), (int, float)) and 0 <= query["timeout"] <= 3600:
        query["timeout"] = 0.01
    return query


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """The document has lines as one text."""
    return value.encode() if isinstance(value, str) else str(value).encode()
