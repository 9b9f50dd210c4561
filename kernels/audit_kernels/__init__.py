"""The op of the scan, `top2_margin`, in several implementations of one definition."""

from audit_kernels.registry import Implementation as Implementation
from audit_kernels.registry import get as get
from audit_kernels.registry import implementation as implementation
from audit_kernels.registry import names as names
from audit_kernels.types import Kernel as Kernel
from audit_kernels.types import TensorKernel as TensorKernel
from audit_kernels.types import TensorTop2 as TensorTop2
from audit_kernels.types import Top2 as Top2
