#!/bin/sh
# Makes the lab's two networks and serves in both until standard input ends. Runs as the root of
# new user, network and mount namespaces: the lab's host. `tests/src/lab.rs` has the drawing.
# LAB is the lab's directory.
set -eu
cd "$(dirname "$0")"
mount --bind "$LAB/resolv.conf" /etc/resolv.conf
# Lets ping sockets be opened by every group that there is in this namespace (icmp(7)).
echo "0 0" >/proc/sys/net/ipv4/ping_group_range
ip link set lo up
# Commands in the background would read from /dev/null.
exec 3<&0
unshare --net sh internet.sh $$ <&3 &
python3 -m internet host <&3 &
wait
