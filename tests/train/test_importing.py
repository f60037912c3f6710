"""The garbage collector rests during slow imports, and afterwards is as it was."""

import gc

import pytest

from polarity.quiet import importing


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_rests_and_is_then_as_it_was(on: bool) -> None:
    (gc.enable if on else gc.disable)()
    try:
        with pytest.raises(ImportError), importing():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() is on
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()
