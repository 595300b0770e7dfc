"""The objects of the simulator, as DevRev's Python SDK has them, through a gateway: python_sdk.py URL KEY"""

import sys

from devrev import DevRevClient
from devrev.config import APIVersion, DevRevConfig
from devrev.exceptions import AuthenticationError, ConflictError, NotFoundError, ValidationError
from devrev.models.works import IssuePriority, WorkType


def client(url, key):
    config = DevRevConfig(api_token=key, base_url=url, api_version=APIVersion.BETA, max_retries=0)
    return DevRevClient(config=config)


def refused(kind, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError(f"{call} was not refused as {kind}")


def pages(service, key):
    """The ids on all pages."""
    seen, cursor = [], None
    while True:
        page = service.list(limit=7, cursor=cursor)
        seen += [one.id for one in getattr(page, key)]
        cursor = page.next_cursor
        if not cursor:
            return seen


def main(url, key):
    devrev = client(url, key)

    work = devrev.works.create(
        title="made", applies_to_part="PROD-1", type=WorkType.ISSUE, owned_by=["DEVU-1"], priority=IssuePriority.P1
    )
    assert work.display_id == "ISS-21" and work.applies_to_part.name == "Analytical Engine", work
    assert devrev.works.get(work.id) == work
    changed = devrev.works.update(work.id, title="changed", owned_by=["DEVU-2"])
    assert (changed.title, changed.owned_by[0].full_name) == ("changed", "Ada Lovelace"), changed
    newest = devrev.works.list_modified_since(work.created_date)
    assert [one.id for one in newest] == [work.id], newest
    assert devrev.works.count() == 121
    assert len(devrev.works.export(first=9)) == 9
    seen = pages(devrev.works, "works")
    assert len(seen) == len(set(seen)) == 121 and work.id in seen, len(seen)
    devrev.works.delete(work.id)
    error = refused(NotFoundError, devrev.works.get, work.id)
    assert error.response_body["type"] == "not_found", error.response_body

    for service, key in [
        (devrev.accounts, "accounts"),
        (devrev.articles, "articles"),
        (devrev.dev_users, "dev_users"),
        (devrev.parts, "parts"),
        (devrev.rev_orgs, "rev_orgs"),
        (devrev.rev_users, "rev_users"),
    ]:
        seen = pages(service, key)
        assert len(seen) == len(set(seen)) > 1, (key, seen)
        # The others take a request in place of an id.
        if key in ("accounts", "dev_users", "rev_orgs", "rev_users"):
            assert service.get(seen[0]).id == seen[0]

    assert devrev.dev_users.self().display_id == "DEVU-1"
    error = refused(ValidationError, devrev.works.get, "ACC-1")
    assert error.response_body["field_name"] == "id", error.response_body
    refused(ConflictError, devrev.accounts.create, "a", external_refs=["crm-1"])
    refused(AuthenticationError, client(url, "a-wrong-key").works.get, "TKT-1")
    print("all good")


main(*sys.argv[1:])
