#!/bin/sh
# Connects this network namespace, the lab's internet, with that of the process $1, and serves.
set -eu
host=$1
ip link set lo up
ip link add inet type veth peer name lab netns "$host"
ip address add 198.51.100.254/24 dev inet
ip address add 2001:db8:1::fe/64 dev inet nodad
ip link set inet up
# All of these addresses are here: public-looking ones, and those that a policy protects.
for network in 203.0.113.0/24 10.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16; do
    ip route add local "$network" dev lo
done
# What is sent to this one is lost without a word.
ip route add blackhole 203.0.113.200/32 table local
for network in 2001:db8:2::/64 fd00::/8; do
    ip -6 route add local "$network" dev lo
done
# Sockets bind to addresses of their own only, where IPv6 is concerned.
ip address add 2001:db8:2::20/128 dev lo nodad
on_host() {
    nsenter --target "$host" --net ip "$@"
}
on_host address add 198.51.100.1/24 dev lab
on_host address add 2001:db8:1::1/64 dev lab nodad
on_host link set lab up
on_host route add default via 198.51.100.254
on_host -6 route add default via 2001:db8:1::fe
exec python3 -m internet internet
