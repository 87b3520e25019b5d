//! Where addresses belong: their country, and the number of the network's operator (its autonomous system). Both are looked up
//! in files of the MaxMind DB format, which MaxMind, DB-IP and IPinfo publish.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use maxminddb::{PathElement, Reader};

/// The files in use. What is in none of them is nowhere.
#[derive(Debug, Clone, Default)]
pub struct GeoIp {
    pub country: Option<Database>,
    pub asn: Option<Database>,
}

/// What a file is to tell of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Country,
    Asn,
}

/// A file that was read, whole, and found to be sound.
#[derive(Clone)]
pub struct Database(Arc<Reader<Vec<u8>>>, u64);

impl GeoIp {
    /// The ISO 3166-1 code of an address's country, two letters in upper case.
    pub fn country(&self, address: IpAddr) -> Option<&str> {
        country(&self.country.as_ref()?.0, address)
    }

    /// The number of the autonomous system that an address belongs to.
    pub fn asn(&self, address: IpAddr) -> Option<u32> {
        asn(&self.asn.as_ref()?.0, address)
    }
}

impl Database {
    /// Networks that are looked at to see whether a file tells what it is to tell.
    const LOOKED_AT: usize = 10_000;

    /// Takes the content of a file. The error says what is wrong with it.
    pub fn new(content: Vec<u8>, kind: Kind) -> Result<Self, String> {
        let mut hasher = std::hash::DefaultHasher::new();
        content.hash(&mut hasher);
        let reader = Reader::from_source(content)
            .and_then(|reader| reader.verify().map(|()| reader))
            .map_err(|error| format!("it is no sound file of the MaxMind DB format: {error}"))?;
        let tells = |address| match kind {
            Kind::Country => country(&reader, address).is_some(),
            Kind::Asn => asn(&reader, address).is_some(),
        };
        let networks = reader.networks(maxminddb::WithinOptions::default()).map_err(|error| error.to_string())?;
        let mut addresses =
            networks.flatten().take(Self::LOOKED_AT).flat_map(|found| found.network()).map(|at| at.ip());
        if !addresses.any(tells) {
            let (what, found) = (kind.as_str(), &reader.metadata().database_type);
            return Err(format!("it is of the type {found:?}, which does not tell the {what} of addresses"));
        }
        Ok(Database(Arc::new(reader), hasher.finish()))
    }
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Country => "country",
            Kind::Asn => "autonomous system",
        }
    }
}

impl Hash for Database {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.1.hash(state);
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.0.metadata().database_type).finish()
    }
}

/// As MaxMind and DB-IP write it, or as IPinfo does.
fn country(reader: &Reader<Vec<u8>>, address: IpAddr) -> Option<&str> {
    let found = reader.lookup(address.to_canonical()).ok()?;
    let at = |path: &[PathElement<'_>]| found.decode_path::<&str>(path).ok().flatten();
    let code = at(&[PathElement::Key("country"), PathElement::Key("iso_code")])
        .or_else(|| at(&[PathElement::Key("country_code")]))
        .or_else(|| at(&[PathElement::Key("country")]))?;
    is_country(code).then_some(code)
}

fn asn(reader: &Reader<Vec<u8>>, address: IpAddr) -> Option<u32> {
    let found = reader.lookup(address.to_canonical()).ok()?;
    let at = [PathElement::Key("autonomous_system_number")];
    // Some writers choose the type by the number. That there is none is no error.
    let number = found.decode_path::<u32>(&at).unwrap_or_else(|_| {
        let short = found.decode_path::<u16>(&at).ok().flatten().map(u32::from);
        let long = || u32::try_from(found.decode_path::<u64>(&at).ok().flatten()?).ok();
        let signed = || u32::try_from(found.decode_path::<i32>(&at).ok().flatten()?).ok();
        short.or_else(long).or_else(signed)
    });
    let text =
        || found.decode_path::<&str>(&[PathElement::Key("asn")]).ok().flatten()?.strip_prefix("AS")?.parse().ok();
    number.or_else(text)
}

/// Whether a text is written as the code of a country is.
pub(crate) fn is_country(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// The same of what an operator has written; the error says why it is none.
pub(crate) fn check_country(text: &str) -> Result<(), &'static str> {
    match text {
        "UK" => Err("the United Kingdom is \"GB\""),
        text if is_country(text) => Ok(()),
        _ => Err("it is two letters in upper case, such as \"DE\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTRY: &[u8] = include_bytes!("../tests/geoip/country.mmdb");
    const ASN: &[u8] = include_bytes!("../tests/geoip/asn.mmdb");
    const SHORT: &[u8] = include_bytes!("../tests/geoip/short.mmdb");
    const BOTH: &[u8] = include_bytes!("../tests/geoip/ipinfo.mmdb");

    fn database(content: &[u8], kind: Kind) -> Option<Database> {
        Some(Database::new(content.to_vec(), kind).unwrap())
    }

    #[test]
    fn addresses_belong_somewhere() {
        let nowhere = GeoIp::default();
        let apart = GeoIp { country: database(COUNTRY, Kind::Country), asn: database(ASN, Kind::Asn) };
        let short = GeoIp { country: database(COUNTRY, Kind::Country), asn: database(SHORT, Kind::Asn) };
        let both = GeoIp { country: database(BOTH, Kind::Country), asn: database(BOTH, Kind::Asn) };
        for (address, country, asn) in [
            ("192.0.2.7", Some("DE"), Some(64496)),
            ("::ffff:192.0.2.7", Some("DE"), Some(64496)),
            ("127.0.0.3", Some("FR"), Some(64497)),
            ("203.0.113.9", None, None),
            ("2001:db9::1", None, None),
        ] {
            let address = address.parse().unwrap();
            for geoip in [&apart, &both, &short] {
                assert_eq!((geoip.country(address), geoip.asn(address)), (country, asn), "{address}");
            }
            assert_eq!((nowhere.country(address), nowhere.asn(address)), (None, None));
        }
        let address = "2001:db8:de::1".parse().unwrap();
        assert_eq!((apart.country(address), apart.asn(address)), (Some("DE"), Some(64498)));
    }

    #[test]
    fn what_is_no_database_of_the_kind_is_refused() {
        for (content, kind, why) in [
            (&b"#!/bin/sh"[..], Kind::Country, "no sound file of the MaxMind DB format"),
            (&COUNTRY[..COUNTRY.len() / 2], Kind::Country, "no sound file"),
            (ASN, Kind::Country, "\"GeoLite2-ASN\", which does not tell the country"),
            (COUNTRY, Kind::Asn, "\"GeoLite2-Country\", which does not tell the autonomous system"),
        ] {
            let said = Database::new(content.to_vec(), kind).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    /// Whatever bytes there are in a file, it is refused or answers.
    #[test]
    fn broken_files_do_no_harm() {
        let mut random = fastrand::Rng::with_seed(17);
        let mut taken = 0;
        for _ in 0..3000 {
            let mut content = COUNTRY.to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..content.len());
                content[at] = random.u8(..);
            }
            let Ok(database) = Database::new(content, Kind::Country) else { continue };
            taken += 1;
            let geoip = GeoIp { country: Some(database), asn: None };
            for _ in 0..20 {
                let (v4, v6): (u32, u128) = (random.u32(..), random.u128(..));
                let _ = (geoip.country(IpAddr::from(v4.to_be_bytes())), geoip.country(IpAddr::from(v6.to_be_bytes())));
            }
        }
        assert!(taken > 0);
    }
}
