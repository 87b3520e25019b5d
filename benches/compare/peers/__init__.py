"""The servers that are compared, a file each. All have one worker on one core, keep connections open for as long as the
run lasts, and cache what the same origin says may be cached."""

from .floor import Floor
from .haproxy import HAProxy
from .nginx import Nginx, NginxCache, NginxCopy
from .seawall import Seawall, SeawallOnTwoCores, SeawallOverAThousand, SeawallOverThree
from .trafficserver import TrafficServer
from .varnish import Varnish

# In the order in which they are measured.
PEERS = {peer.name: peer for peer in
         (Seawall, SeawallOnTwoCores, SeawallOverThree, SeawallOverAThousand, Nginx, NginxCopy, NginxCache, HAProxy, Varnish, TrafficServer, Floor)}
