"""Golem's own generated client as a process: `ask.py URL [APP-KEY]`, one JSON question a line, one JSON answer a line.

Question: `{"api": "payment", "call": "get_invoices", "with": {"max_items": 3}}`; arguments that end in `_timestamp` are
ISO 8601. Answer, one of: `{"served": what came over the wire, "understood": the same as the client's models read it,
"kinds": names of the models in a list}`,
`{"refused": HTTP status, "body": text}`, `{"rejected": why the client does not take it, "served": ... or null}`.
Runs in an environment of its own (`make test-peers`): nothing of Orcha can be imported here.
"""

import asyncio
import json
import sys
from datetime import datetime

import ya_activity
import ya_market
import ya_payment

APIS = {"payment": ya_payment, "market": ya_market, "activity": ya_activity}
LISTS = {"get_agreements": "/agreements"}
"""Addresses that yagna has and the API description of this release does not: asked by the client's own machinery."""


def connect(name, url, key):
    """A client of one API and its provider's calls."""
    package = APIS[name]
    configuration = package.Configuration(host=f"{url}/{name}-api/v1")
    configuration.access_token = key
    client = package.ApiClient(configuration)
    return client, package.ProviderApi(client)


async def ask(client, provider, question):
    """One call of the generated code, and what it made of the answer."""
    given = {
        name: datetime.fromisoformat(value) if name.endswith("_timestamp") else value
        for name, value in question["with"].items()
    }
    client.last_response = None
    try:
        if question["call"] in LISTS:
            understood = await listed(client, LISTS[question["call"]], given)
        else:
            understood = await getattr(provider, question["call"])(**given)
    except (ya_payment.ApiException, ya_market.ApiException, ya_activity.ApiException) as error:
        return {"refused": error.status, "body": error.body}
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        # What the generated code raises where arguments, or an answer, are not of the shape of its models.
        outcome = {"rejected": f"{type(error).__name__}: {error}"}
    else:
        kinds = [type(each).__name__ for each in understood] if isinstance(understood, list) else None
        outcome = {"understood": client.sanitize_for_serialization(understood), "kinds": kinds}
    return {**outcome, "served": json.loads(client.last_response.data) if client.last_response else None}


async def listed(client, path, given):
    """A list without a model."""
    return await client.call_api(
        path,
        "GET",
        query_params=list(given.items()),
        response_type="object",
        auth_settings=["app_key"],
        _return_http_data_only=True,
    )


async def main():
    """Answer until the questions end."""
    url, key = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    connections = {name: connect(name, url, key) for name in APIS}  # their sessions want a running loop
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(await ask(*connections[question["api"]], question)), flush=True)  # noqa: T201 (the answer)
    for client, _ in connections.values():
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
