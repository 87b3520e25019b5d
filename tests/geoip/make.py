#!/usr/bin/env python3
"""Makes the files beside it, by the package mmdb_writer. Their addresses are those of RFC 5737 and RFC 3849, and loopback."""

import pathlib

from mmdb_writer import MMDBWriter
from netaddr import IPSet

HERE = pathlib.Path(__file__).parent
COUNTRIES = {
    "192.0.2.0/24": "DE",
    "198.51.100.0/24": "FR",
    "127.0.0.2/32": "DE",
    "127.0.0.3/32": "FR",
    "2001:db8:de::/48": "DE",
}
SYSTEMS = {"192.0.2.0/24": 64496, "127.0.0.2/32": 64496, "127.0.0.3/32": 64497, "2001:db8::/32": 64498}


def write(name, kind, networks, numbers="uint32"):
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type=kind, description={"en": "for tests"}, int_type=numbers)
    for network, record in networks.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(HERE / name))


write("country.mmdb", "GeoLite2-Country", {at: {"country": {"iso_code": code}} for at, code in COUNTRIES.items()})
write("asn.mmdb", "GeoLite2-ASN", {at: {"autonomous_system_number": number} for at, number in SYSTEMS.items()})
# Numbers in as few bytes as they fit into.
write("short.mmdb", "GeoLite2-ASN", {at: {"autonomous_system_number": number} for at, number in SYSTEMS.items()}, "auto")
# As IPinfo has both in one file.
write("ipinfo.mmdb", "ipinfo generic_country_asn_free.mmdb", {at: {"country": code, "asn": f"AS{SYSTEMS.get(at, 64511)}"} for at, code in COUNTRIES.items()})
