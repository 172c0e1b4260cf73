"""A cluster of two nodes on this machine: it is joined with unchanged code, and may lose a node."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from faulty import Bench, Items, travels
from ray.cluster_utils import Cluster

from autopv.errors import InputError
from autopv.search import trial
from autopv.search.events import EventLog, read_events
from autopv.search.ray_session import num_devices

pytestmark = pytest.mark.slow

travels(__name__)


def checkpoint_at_each_step() -> None:
    trial.CHECKPOINT_EVERY_S = 0.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def test_a_lost_node_costs_nobody_more_than_the_way_back_to_a_checkpoint(
    cluster: Cluster, tmp_path: Path, image_file: Path
) -> None:
    assert num_devices(cluster.address, device="cpu") == 2
    with pytest.raises(InputError, match="the cluster has 0"), bench_gpu(tmp_path, image_file, cluster):
        pass
    bench = Bench(tmp_path / "run", image_file=image_file)
    reported: set[str] = set()

    def lose_a_node(event: Mapping[str, Any]) -> None:
        if event["event"] == "progress" and event["progress"] > 0:
            reported.add(event["key"])
            if len(reported) == 2 and len(cluster.list_all_nodes()) == 2:
                cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)

    bench.events = EventLog(bench.folder.events, listener=lose_a_node)
    source = Items([1, 2])
    with bench.executor(num_workers=2, address=cluster.address) as executor:
        executor.run(source, inputs=bench.inputs(checkpoint_at_each_step, num_steps=400))
    assert {outcome.status for outcome in source.outcomes.values()} == {"complete"}
    (reason,) = bench.reasons()
    assert "machine was lost" in reason
    events = list(read_events(bench.folder.events))
    lost = next(event for event in events if event["event"] == "worker_lost")
    rounds = [event["progress"] for event in events if event["event"] == "progress" and event["key"] == lost["key"]]
    assert rounds == sorted(rounds), "the training went on from where it stood"
    bench.ledger.close()


def bench_gpu(tmp_path: Path, image_file: Path, cluster: Cluster) -> Any:
    """An executor that wants a kind of device which the cluster lacks."""
    bench = Bench(tmp_path / "gpu", image_file=image_file)
    executor = bench.executor(address=cluster.address)
    executor._ray._device = "gpu"
    return executor
