"""Second process of the tests of models in parts: follows through the models that the first names.

Run as ``python -m tests.support.shard_worker STORE CACHE FOLDER...``.
"""

import sys
from pathlib import Path

import torch
from bem.engine.shard_follower import ShardFollower
from bem.shard_group import ShardGroup
from bem.sharded_backbone import load_shard

if __name__ == "__main__":
    torch.set_num_threads(1)
    store, cache, *folders = sys.argv[1:]
    group = ShardGroup(1, 2, Path(store), torch.device("cpu"))
    while (place := group.share_numbers([0])[0]) >= 0:
        ShardFollower(load_shard(folders[place], group, Path(cache)), group).run()
    group.stop()
