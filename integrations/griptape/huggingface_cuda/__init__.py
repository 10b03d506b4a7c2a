# SPDX-License-Identifier: Apache-2.0
"""Nodes that load models through unstick. What they share is in the package itself: one cache for each GPU."""
