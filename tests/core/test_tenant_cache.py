"""One bound for what is remembered of all tenants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core.programs.tenant_cache import TenantCache
from autellix_sgl.errors import ConfigError


def test_a_value_is_found_under_its_tenant_only() -> None:
    cache: TenantCache[str, int] = TenantCache(10)
    cache.put("one", "key", 1)
    assert cache.find("one", "key") == 1
    assert cache.find("two", "key") is None
    assert cache.find("one", "other") is None


def test_the_least_lately_used_goes_first() -> None:
    cache: TenantCache[str, int] = TenantCache(2)
    cache.put("", "a", 1)
    cache.put("", "b", 2)
    cache.put("", "a", 3)
    cache.put("", "c", 4)
    assert [cache.find("", key) for key in "abc"] == [3, None, 4]


def test_the_tenant_that_has_most_makes_room() -> None:
    cache: TenantCache[int, int] = TenantCache(5)
    cache.put("quiet", 0, 0)
    for key in range(100):
        cache.put("loud", key, key)
    assert cache.find("quiet", 0) == 0
    assert len(cache) == 5


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 20))), st.integers(1, 10))
def test_it_never_holds_more_than_the_limit(puts: list[tuple[str, int]], limit: int) -> None:
    cache: TenantCache[int, int] = TenantCache(limit)
    for tenant, key in puts:
        cache.put(tenant, key, key)
    kept = {(tenant, key) for tenant, key in puts if cache.find(tenant, key) is not None}
    assert len(kept) == len(cache) == min(limit, len(set(puts)))


def test_a_cache_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        TenantCache(0)
