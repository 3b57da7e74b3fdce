"""How fast the proxy is, beside nginx, HAProxy and Caddy: `python -m benchmarks.run`.

A number from one machine says little, and on a shared machine it changes by the minute. So every number here
is a *ratio* between two proxies that were measured right after each other, and the table shows the median of
many such pairs with its spread.

machine.py     cores, processor time and memory of processes, what this machine is
process.py     children: pinned to a core, ended whatever happens
needs.py       the programs that must be there, and how to get them
loads/         what is asked for: the requests, and who sends them
origins/       who answers behind the proxies
peers/         the proxies, each configured for its best
stage.py       one load set up: origin, proxies, checks
rounds.py      the measurements on a stage
results.py     what came out, as plain values; to JSON and back
report.py      tables and documentation; plot.py the picture
profiling.py   where the processor time of our process goes (profile.sh)
run.py         the command
"""
