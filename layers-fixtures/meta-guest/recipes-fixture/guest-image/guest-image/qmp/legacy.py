"""The module's name from 2023 on."""

from . import QEMUMonitorProtocol, QMPConnectError, QMPError
