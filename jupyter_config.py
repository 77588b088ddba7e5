"""A configuration of kernelgate to start from: copy it to where the server starts, and change what you need.

Jupyter reads this file with ``c``, its configuration object. Environment variables and a ``.env`` win over it,
the command line wins over all. Every trait with its default: ``kernelgate --help-all`` and docs/configuration.md.
"""

c = get_config()  # noqa: F821  Jupyter defines it

# Where the server listens. Behind a reverse proxy on the same machine, 127.0.0.1 is enough.
c.Server.host = "0.0.0.0"
c.Server.port = 8000

# Keys belong into the environment (API_KEY, API_KEYS), where they are not read by whoever reads this file.

# What one execution may use. Memory has no swap behind it; 100000 is one whole CPU.
c.Executor.max_execution_time = 30
c.DockerProvisioner.max_memory_mb = 512
c.DockerProvisioner.max_cpu_quota = 50_000
c.DockerProvisioner.max_processes = 32

# How many run at once; the others wait in turn, at most so long, and are then told to come again.
c.Admission.max_concurrent = 10
c.Admission.queue_timeout = 60

# Kernels that wait for a caller (about 40 MB each, 100 MB with the libraries below imported), and what they import
# while nobody needs them.
c.PoolSettings.py_min = 5
c.PoolSettings.py_max = 20
c.PoolSettings.imports = ["numpy", "pandas", "matplotlib.pyplot"]

# How long a session keeps its kernel after its last use, and how many sessions may have one at a time.
c.Culling.kernel_idle_seconds = 300
c.Sessions.max_live_kernels = 64

# A stronger wall around each container, where it is installed: gVisor (runsc) or Kata.
# c.DockerProvisioner.runtime = "runsc"
