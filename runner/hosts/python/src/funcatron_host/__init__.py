"""The Python host: runs user code for a runner, one process for each loaded revision.

It owns processes, their output and their sockets; it never speaks to a broker, a network or Kubernetes.
"""

import sys

# The sources may stand in a read-only image, or in a checkout from which they are embedded as they are.
sys.dont_write_bytecode = True

__version__ = "0.1.0"
WIRE = 1
