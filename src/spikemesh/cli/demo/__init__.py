"""`spikemesh demo`: the main job on one machine, from processes to a report.

verb       the story: start, disturb, wait until all agree, compare, report
length     how long it will take here, and how many rounds there is time for
swarm      volunteers as processes        stage     what has happened, to go on after Ctrl-C
live       what a person sees meanwhile   baselines what the result is compared with
verdict    counting and evaluating        report    facts, their bars, page and plots
"""

from spikemesh.cli.demo.verb import demo

__all__ = ["demo"]
