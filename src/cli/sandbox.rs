//! What the packaged service may write and read, as its unit says: a path outside it is no mistake in a file, and is lost all
//! the same.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::config::model::{AccessLogTarget, Config, ListenAddress};
use crate::sandbox;

/// The service by which the packages run a node.
const UNIT: &str = "seawall.service";
const PROPERTIES: &str = "ExecStart,ProtectSystem,ProtectHome,PrivateTmp,ReadWritePaths,BindPaths,BindReadOnlyPaths,RuntimeDirectory,\
    StateDirectory,CacheDirectory,LogsDirectory";

/// What a sandboxed service sees of the file system.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sandbox {
    /// Below which it may write.
    writable: Vec<PathBuf>,
    /// Below which it sees nothing of what is there.
    hidden: Vec<PathBuf>,
    /// What it sees all the same.
    bound: Vec<PathBuf>,
}

impl Sandbox {
    /// That of the service, if it is installed here and runs this configuration.
    pub(super) fn of_service(file: &Path) -> Option<Self> {
        let shown = Command::new("systemctl").args(["show", UNIT, "--property", PROPERTIES]).output().ok()?;
        let text = String::from_utf8(shown.stdout).ok().filter(|_| shown.status.success())?;
        let file = file.canonicalize().ok()?;
        Self::parse(&text, &file)
    }

    fn parse(properties: &str, file: &Path) -> Option<Self> {
        let properties: HashMap<&str, &str> = properties.lines().filter_map(|line| line.split_once('=')).collect();
        let words = |name: &str| properties.get(name).into_iter().flat_map(|value| value.split_whitespace());
        let is_run = words("ExecStart").any(|word| Path::new(word) == file);
        if !is_run || properties.get("ProtectSystem") != Some(&"strict") {
            return None;
        }
        let path = |word: &str| PathBuf::from(word.trim_start_matches(['-', '+']));
        let bound = |name| words(name).map(|word| path(word.rsplit(':').next().unwrap_or(word)));
        let below = [
            ("RuntimeDirectory", "/run"),
            ("StateDirectory", "/var/lib"),
            ("CacheDirectory", "/var/cache"),
            ("LogsDirectory", "/var/log"),
        ];
        let own = below.iter().flat_map(|(name, root)| words(name).map(|name| Path::new(root).join(name)));
        let writable = own.chain(words("ReadWritePaths").map(path)).chain(bound("BindPaths")).collect();
        let mut hidden = Vec::new();
        if properties.get("ProtectHome").is_some_and(|value| *value != "no") {
            hidden.extend(["/home", "/root", "/run/user"].map(PathBuf::from));
        }
        if properties.get("PrivateTmp") == Some(&"yes") {
            hidden.extend(["/tmp", "/var/tmp"].map(PathBuf::from));
        }
        let bound = bound("BindReadOnlyPaths").chain(bound("BindPaths")).collect();
        Some(Sandbox { writable, hidden, bound })
    }

    /// What of a configuration will not work in it, each with what mends it.
    pub(super) fn warnings(&self, config: &Config) -> Vec<String> {
        let is_below = |path: &Path, all: &[PathBuf]| all.iter().any(|root| path.starts_with(root));
        let written = written(config).into_iter().filter(|(path, _)| !is_below(path, &self.writable));
        let may_not_write = written.map(|(path, what)| {
            let mend = sandbox::lets_write(&path);
            format!("{} ({what}): {UNIT} may not write there\n  = hint: {mend}", path.display())
        });
        let directories = config.pools.iter().filter_map(|pool| Some(pool.files.as_ref()?.root.join("-")));
        let all: Vec<PathBuf> = config.files.iter().cloned().chain(directories).collect();
        let read = all.iter().filter(|path| is_below(path, &self.hidden) && !is_below(path, &self.bound));
        let does_not_see = read.map(|path| {
            let mend = sandbox::lets_read(path.parent().unwrap_or(path));
            format!(
                "{}: {UNIT} sees nothing in there\n  = hint: {mend}",
                path.display().to_string().trim_end_matches("/-")
            )
        });
        may_not_write.chain(does_not_see).collect()
    }
}

/// What a node writes, and what for.
fn written(config: &Config) -> Vec<(PathBuf, &'static str)> {
    let mut all: Vec<_> = config.node.state_dir.iter().map(|path| (path.clone(), "state_dir in [node]")).collect();
    all.extend(config.disk.directories.iter().map(|directory| (directory.path.clone(), "a directory of [cache.disk]")));
    if let AccessLogTarget::File(path) = &config.log.access {
        all.push((path.parent().unwrap_or(path).to_owned(), "the access log's directory"));
    }
    for listener in &config.listeners {
        if let ListenAddress::Unix(path) = &listener.address {
            all.push((path.parent().unwrap_or(path).to_owned(), "the directory of a Unix socket"));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    const UNIT: &str = "ExecStart={ path=/usr/bin/seawall ; argv[]=/usr/bin/seawall run --config /etc/seawall/seawall.toml ; ignore_errors=no }\n\
        ProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\nStateDirectory=seawall\nCacheDirectory=seawall\n\
        LogsDirectory=seawall\nRuntimeDirectory=seawall\nReadWritePaths=-/disk1 /disk2\nBindReadOnlyPaths=/home/shop/certs\n";

    #[test]
    fn what_the_unit_does_not_let_through_is_told() {
        let main = Path::new("/etc/seawall/seawall.toml");
        let sandbox = Sandbox::parse(UNIT, main).unwrap();
        let text = "[node]\nstate_dir = \"/srv/state\"\n[[listen]]\naddress = \"unix:/run/seawall/a.sock\"\n\
             [cache.disk]\npaths = [{ path = \"/disk1/cache\", max_size = \"1GiB\" }, { path = \"/disk3\", max_size = \"1GiB\" }]\n\
             [log]\naccess = \"/var/log/seawall/access.log\"\n";
        let mut config = load::parse(main, text).unwrap();
        config.files = ["/home/shop/certs/a.pem", "/home/other/a.pem", "/etc/ssl/a.pem"].map(PathBuf::from).into();
        let warnings = sandbox.warnings(&config);
        let firsts: Vec<&str> = warnings.iter().map(|warning| warning.lines().next().unwrap()).collect();
        assert_eq!(
            firsts,
            [
                "/srv/state (state_dir in [node]): seawall.service may not write there",
                "/disk3 (a directory of [cache.disk]): seawall.service may not write there",
                "/home/other/a.pem: seawall.service sees nothing in there",
            ]
        );
        assert!(warnings[1].ends_with("add the lines \"[Service]\" and \"ReadWritePaths=/disk3\", then restart it"));
        assert_eq!(Sandbox::parse(UNIT, Path::new("/tmp/other.toml")), None, "another file is not the service's");
        assert_eq!(Sandbox::parse(&UNIT.replace("strict", "no"), main), None);
    }
}
