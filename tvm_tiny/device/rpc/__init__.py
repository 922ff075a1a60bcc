# SPDX-License-Identifier: Apache-2.0
"""RPC to a device: the host-side bridge that gives TVM's own client a TCP port (docs/rpc.md)."""
