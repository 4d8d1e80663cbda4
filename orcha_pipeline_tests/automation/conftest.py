import shutil

import dagster as dg
import pytest

from orcha_pipeline.definitions import build_defs
from orcha_pipeline.settings import Settings


@pytest.fixture(scope="package")
def defs() -> dg.Definitions:
    return build_defs(Settings())


@pytest.fixture(scope="package")
def fresh_instance(tmp_path_factory):
    """A folder with the databases of an unused instance: to make them takes a second, to copy them none."""
    folder = tmp_path_factory.mktemp("instance")
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        instance.get_runs_count()
        instance.get_latest_materialization_event(dg.AssetKey("any"))
        instance.all_instigator_state()
    return folder


@pytest.fixture
def instance(tmp_path, fresh_instance):
    # On disk: a schedule is given no other kind of instance.
    shutil.copytree(fresh_instance, tmp_path, dirs_exist_ok=True)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def asked(defs, instance):
    """What the sensor of that name answers, asked with a cursor."""
    repository = defs.get_repository_def()

    def evaluate(name, cursor=None):
        context = dg.build_sensor_context(instance=instance, repository_def=repository, cursor=cursor)
        return defs.resolve_sensor_def(name).evaluate_tick(context)

    return evaluate
