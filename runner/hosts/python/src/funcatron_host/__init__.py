"""The Python host: runs user code for a runner, one process for each loaded revision.

It owns processes, their output and their sockets; it never speaks to a broker, a network or Kubernetes.
"""

__version__ = "0.1.0"
WIRE = 1
