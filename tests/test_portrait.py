"""Which object stands for a study."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from edge.dicom.uids import is_image
from edge.model import Instance, Kind
from edge.states import DeliveryState
from edge.store import StudyFilter, read_studies
from edge.store.portrait import portrait
from tests.stored import CT, EXPLICIT, Stored, instance

SR = "1.2.840.10008.5.1.4.1.1.88.11"


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[Stored]:
    async with Stored(tmp_path) as made:
        yield made


def image(number: int, series: str, place: object, sop_class: str = CT) -> Instance:
    made = instance(number)
    header = msgspec.structs.replace(made.header, series_uid=f"1.2.3.{series}", instance_number=str(place))
    return msgspec.structs.replace(made, kind=Kind(sop_class, EXPLICIT), header=header)


async def chosen(stored: Stored) -> int | None:
    (study,) = await read_studies(stored.store.reading, StudyFilter(), 10)
    return await portrait(stored.store.reading, study.id, is_image)


async def test_the_middle_image_of_the_largest_series_stands_for_the_study(stored: Stored) -> None:
    await stored.receive(image(1, "scout", 1), image(2, "scout", 2))
    # in order of arrival the middle one would be another; as text 10 is before 9
    await stored.receive(*(image(10 + i, "body", place) for i, place in enumerate((11, 8, 10, 9, 12))))
    assert await chosen(stored) == 12


async def test_a_series_of_no_images_stands_for_it_only_where_there_is_no_other(stored: Stored) -> None:
    await stored.receive(*(image(n, "reports", n, SR) for n in range(1, 6)))
    assert await chosen(stored) == 3
    await stored.receive(image(9, "body", 1))
    assert await chosen(stored) == 9


async def test_without_numbers_the_order_of_arrival_tells_the_middle(stored: Stored) -> None:
    await stored.receive(*(image(n, "body", "") for n in range(1, 6)))
    assert await chosen(stored) == 3


async def test_what_is_not_here_any_more_stands_for_nothing(stored: Stored) -> None:
    await stored.receive(*(image(n, "body", n) for n in range(1, 4)))
    await stored.settle(DeliveryState.VERIFIED)
    await stored.store.expire([2, 3], "test")
    assert await chosen(stored) == 1
    await stored.store.expire([1], "test")
    assert await chosen(stored) is None


async def test_a_study_that_is_not_there_has_none(stored: Stored) -> None:
    assert await portrait(stored.store.reading, 99, is_image) is None
