"""A volunteer's node: gossip, anti-entropy, admission, identity, statistics. It runs without torch."""

from spikemesh.node.bucket import BucketConfig, BucketGossip
from spikemesh.node.bucket_calls import BucketCalls
from spikemesh.node.calls import ask, fetch_genesis, greet
from spikemesh.node.clock import Clock, SystemClock, giving_way, in_thread
from spikemesh.node.gossip import GossipConfig
from spikemesh.node.identity import Identity
from spikemesh.node.ledger import WINDOW_BYTES, Ledger
from spikemesh.node.node import Door, Node
from spikemesh.node.peers import address_of, info_of
from spikemesh.node.snapshot import begun
from spikemesh.node.statistics import BucketStatistics, NodeStatistics, VolunteerStatistics
from spikemesh.node.transfer import KeptParts, PartsOnDisk, fetch_blob
from spikemesh.node.volunteer import Plan, StepReport, Trainee, Update, Volunteer, run_round

__all__ = [
    "WINDOW_BYTES",
    "BucketCalls",
    "BucketConfig",
    "BucketGossip",
    "BucketStatistics",
    "Clock",
    "Door",
    "GossipConfig",
    "Identity",
    "KeptParts",
    "Ledger",
    "Node",
    "NodeStatistics",
    "PartsOnDisk",
    "Plan",
    "StepReport",
    "SystemClock",
    "Trainee",
    "Update",
    "Volunteer",
    "VolunteerStatistics",
    "address_of",
    "ask",
    "begun",
    "fetch_blob",
    "fetch_genesis",
    "giving_way",
    "greet",
    "in_thread",
    "info_of",
    "run_round",
]
