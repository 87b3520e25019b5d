//! Puts the sections of all files together: what may be given once is, and what refers to another section finds it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::clock::Timestamp;

use super::diagnose::{Diagnostics, Need, Place};
use super::model::{CertificateStore, Config};
use super::read::Table;
use super::section::pool::PoolNames;
use super::section::sets::Sets;
use super::section::{admin, certificate, disk, limits, listen, log, memory, node, pool, site};

/// Builds the model of what the files say; `are_all`: none of them is missing for not being TOML. Mistakes go to `errors`;
/// the model is only fit for use when there are none.
pub(crate) fn resolve(mut files: Vec<Table<'_, '_>>, are_all: bool, errors: &Diagnostics) -> Config {
    let mut config = Config::default();
    let mut once = Once::default();
    let mut pools = Vec::new();
    for (name, table) in files.iter_mut().flat_map(|file| file.named_tables("pool")) {
        once.check(&table);
        pools.push(pool::read(name, table));
    }
    let names = PoolNames::new(&pools, are_all);
    let mut sets = Sets::default();
    files.iter_mut().for_each(|file| sets.read(file));
    let (mut listeners, mut certificates, mut has_certificate) = (Vec::new(), Vec::new(), false);
    let (mut admin, mut disk, mut sites) = (None, None, Vec::new());
    for mut file in files {
        once.read(&mut file, "node", "[node]", &mut config.node, node::read);
        once.read(&mut file, "admin", "[admin]", &mut admin, admin::read);
        once.read(&mut file, "log", "[log]", &mut config.log, log::read);
        once.read(&mut file, "limits", "[limits]", &mut config.limits, limits::read);
        if let Some(mut cache) = file.table("cache", "[cache]", "[cache.memory] or [cache.disk]") {
            once.read(&mut cache, "memory", "[cache.memory]", &mut config.memory, memory::read);
            once.read(&mut cache, "disk", "[cache.disk]", &mut disk, |table| Some(disk::read(table)));
            cache.finish();
        }
        listeners.extend(file.tables("listen", "[[listen]]").into_iter().filter_map(listen::read));
        has_certificate |= !file.lacks("certificate");
        certificates.extend(file.tables("certificate", "[[certificate]]").into_iter().filter_map(certificate::read));
        for (name, table) in file.named_tables("site") {
            once.check(&table);
            sites.push(site::read(name, table, &names, &sets));
        }
        file.finish();
    }
    sets.finish(errors);
    if are_all {
        let names = listeners.iter().map(|listener| listener.value.name.as_str()).filter(|name| !name.is_empty());
        names.for_each(|name| errors.provide(Need::Listener(name.into())));
        errors.report_needs();
        errors.report_public();
    }
    for site in sites.iter_mut().filter(|_| are_all) {
        site.check_https(&listeners, &config.node, errors);
    }
    config.memory.of_sites = site::shares_of_memory(&sites, &config.memory, errors);
    (config.sites, config.hosts) = site::by_host(sites, errors);
    config.pools = pool::link(pools, &names, &config.node, errors);
    if !are_all {
        return config; // what is missing may be in the files that are
    }
    certificate::check_overlaps(&certificates, errors);
    certificate::check(&certificates, &config.hosts, Timestamp::now(), errors);
    config.certificates = Arc::new(CertificateStore::new(certificates));
    listen::check_trust(&listeners, &config.node, errors);
    config.listeners = listen::check(listeners, has_certificate, errors);
    config.admin = admin.map(|admin| admin::check(admin, &config.sites, errors));
    if let Some(disk) = disk {
        disk::check(disk.place, config.node.state_dir.is_some(), errors);
        config.disk = disk.value;
    }
    config.fingerprint = fingerprint(&config, errors);
    config.files = errors.files();
    config.warnings = errors.warnings();
    config
}

/// Where the tables are that may be given once.
#[derive(Default)]
struct Once(HashMap<String, Place>);

impl Once {
    /// Reads a table into its place, if it is there.
    fn read<'t, 'i, T>(
        &mut self,
        file: &mut Table<'t, 'i>,
        key: &'static str,
        name: &str,
        place: &mut T,
        read: impl FnOnce(Table<'t, 'i>) -> T,
    ) {
        if let Some(table) = file.table(key, name, name) {
            self.check(&table);
            *place = read(table);
        }
    }

    fn check(&mut self, table: &Table) {
        if let Some(first) = self.0.insert(table.name.clone(), table.place) {
            table.errors.again(table.place, format!("{} is given twice", table.name), first);
        }
    }
}

/// Changes when anything does of what the configuration is made of, certificates and authorities included.
fn fingerprint(config: &Config, errors: &Diagnostics) -> u64 {
    let mut hasher = DefaultHasher::new();
    errors.hash_sources(&mut hasher);
    (&config.node.geoip.country, &config.node.geoip.asn).hash(&mut hasher);
    config.certificates.hash(&mut hasher);
    let authorities = config.pools.iter().filter_map(|pool| pool.tls.as_ref()?.ca.as_ref());
    authorities.flat_map(|authorities| authorities.iter()).for_each(|der| der.as_ref().hash(&mut hasher));
    let clients = config.pools.iter().filter_map(|pool| pool.tls.as_ref()?.client.as_ref());
    clients.for_each(|client| client.hash(&mut hasher));
    hasher.finish()
}
