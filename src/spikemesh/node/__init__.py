"""A volunteer's node: gossip, anti-entropy, admission, identity, statistics. It runs without torch."""

from spikemesh.node.bucket import BucketConfig, BucketGossip
from spikemesh.node.bucket_calls import BucketCalls
from spikemesh.node.calls import ask, fetch_genesis
from spikemesh.node.clock import Clock, SystemClock, giving_way
from spikemesh.node.gossip import GossipConfig
from spikemesh.node.identity import Identity
from spikemesh.node.ledger import WINDOW_BYTES, Ledger
from spikemesh.node.node import Door, Node
from spikemesh.node.peers import address_of
from spikemesh.node.statistics import BucketStatistics, NodeStatistics, VolunteerStatistics
from spikemesh.node.transfer import KeptParts, fetch_blob
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
    "Plan",
    "StepReport",
    "SystemClock",
    "Trainee",
    "Update",
    "Volunteer",
    "VolunteerStatistics",
    "address_of",
    "ask",
    "fetch_blob",
    "fetch_genesis",
    "giving_way",
    "run_round",
]
