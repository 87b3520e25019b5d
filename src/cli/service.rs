//! The installed service, as its unit has it: what is no mistake in a file may be lost there all the same, and what the file
//! leaves to the environment stands in the unit.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::config::diagnose::ConfigErrors;
use crate::config::load::{self, Environment};
use crate::config::model::{AccessLogTarget, Config, ListenAddress};
use crate::sandbox;

/// The service by which the packages run a node.
const UNIT: &str = "seawall.service";
const PROPERTIES: &str = "ExecStart,User,Environment,EnvironmentFiles,ProtectSystem,ProtectHome,PrivateTmp,ReadWritePaths,\
    BindPaths,BindReadOnlyPaths,RuntimeDirectory,StateDirectory,CacheDirectory,LogsDirectory";
/// The directories that systemd makes for a service, where they are, and the variable that tells.
const DIRECTORIES: [(&str, &str, &str); 4] = [
    ("RuntimeDirectory", "/run", "RUNTIME_DIRECTORY"),
    ("StateDirectory", "/var/lib", "STATE_DIRECTORY"),
    ("CacheDirectory", "/var/cache", "CACHE_DIRECTORY"),
    ("LogsDirectory", "/var/log", "LOGS_DIRECTORY"),
];

/// What is known of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub user: Option<String>,
    environment: Environment,
    sandbox: Option<Sandbox>,
}

/// What a sandboxed service sees of the file system.
#[derive(Debug, PartialEq, Eq)]
struct Sandbox {
    /// Below which it may write.
    writable: Vec<PathBuf>,
    /// What must be there for it to start.
    required: Vec<PathBuf>,
    /// Below which it sees nothing of what is there.
    hidden: Vec<PathBuf>,
    /// What it sees all the same.
    bound: Vec<PathBuf>,
    /// Of the hidden, where nothing can be bound: systemd leaves it out.
    inaccessible: Vec<PathBuf>,
}

impl Service {
    /// That which runs this configuration, if it is installed here.
    pub(super) fn of(file: &Path) -> Option<Self> {
        let shown = Command::new("systemctl").args(["show", UNIT, "--property", PROPERTIES]).output().ok()?;
        let text = String::from_utf8(shown.stdout).ok().filter(|_| shown.status.success())?;
        let file = file.canonicalize().ok()?;
        Self::parse(&text, &file, |path| std::fs::read_to_string(path).ok())
    }

    /// Loads its configuration as it does itself.
    pub(super) fn load(service: Option<&Self>, file: &Path) -> Result<Config, ConfigErrors> {
        service.map_or_else(|| load::load(file), |service| load::load_with(file, &service.environment))
    }

    /// The variables that it has.
    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    fn parse(properties: &str, file: &Path, read: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let mut all: HashMap<&str, Vec<&str>> = HashMap::new();
        for (name, value) in properties.lines().filter_map(|line| line.split_once('=')) {
            all.entry(name).or_default().push(value);
        }
        let lines = |name: &str| all.get(name).into_iter().flatten().copied();
        let words = |name: &str| lines(name).flat_map(str::split_whitespace);
        if !words("ExecStart").any(|word| Path::new(word) == file) {
            return None;
        }
        let own = DIRECTORIES.iter().flat_map(|(name, root, _)| words(name).map(|name| Path::new(root).join(name)));
        let own: Vec<PathBuf> = own.collect();
        let mut environment =
            Environment::from([("CREDENTIALS_DIRECTORY".to_owned(), format!("/run/credentials/{UNIT}"))]);
        for (name, root, variable) in DIRECTORIES {
            let paths: Vec<String> = words(name).map(|name| format!("{root}/{name}")).collect();
            environment.extend((!paths.is_empty()).then(|| (variable.to_owned(), paths.join(":"))));
        }
        lines("Environment").for_each(|line| environment.extend(assignments(line)));
        for line in lines("EnvironmentFiles") {
            let path = line.split_once(" (").map_or(line, |(path, _)| path);
            environment.extend(read(path).iter().flat_map(|text| text.lines()).filter_map(of_a_file));
        }
        let user = words("User").next().map(str::to_owned);
        let sandbox = (lines("ProtectSystem").next() == Some("strict")).then(|| Sandbox::of(&words, own));
        Some(Service { user, environment, sandbox })
    }

    /// What of a configuration will not work in it, each with what mends it.
    pub(super) fn warnings(&self, config: &Config) -> Vec<String> {
        self.sandbox.iter().flat_map(|sandbox| sandbox.warnings(config)).collect()
    }
}

impl Sandbox {
    fn of<'a, I: Iterator<Item = &'a str>>(words: &impl Fn(&'static str) -> I, own: Vec<PathBuf>) -> Self {
        let path = |word: &str| PathBuf::from(word.trim_start_matches(['-', '+']));
        // systemd shows SOURCE:DESTINATION:OPTIONS.
        let destination = |word: &str| {
            let second = word.split(':').nth(1).filter(|second| second.starts_with('/'));
            path(second.or(word.split(':').next()).unwrap_or(word))
        };
        let bound = |name| words(name).map(destination);
        let writable = own.into_iter().chain(words("ReadWritePaths").map(path)).chain(bound("BindPaths")).collect();
        let required = words("ReadWritePaths").filter(|word| !word.starts_with('-'));
        let home = words("ProtectHome").next();
        let homes = ["/home", "/root", "/run/user"].map(PathBuf::from);
        let inaccessible = if home == Some("yes") { homes.to_vec() } else { Vec::new() };
        let mut hidden = Vec::new();
        if home.is_some_and(|value| value != "no") {
            hidden.extend(homes);
        }
        if words("PrivateTmp").next() == Some("yes") {
            hidden.extend(["/tmp", "/var/tmp"].map(PathBuf::from));
        }
        let required = required.map(path).collect();
        let bound = bound("BindReadOnlyPaths").chain(bound("BindPaths")).collect();
        Sandbox { writable, required, hidden, bound, inaccessible }
    }

    fn warnings(&self, config: &Config) -> Vec<String> {
        let is_below = |path: &Path, all: &[PathBuf]| all.iter().any(|root| path.starts_with(root));
        let missing = self.required.iter().filter(|path| !path.exists()).map(|path| {
            let mend = sandbox::makes(path);
            format!(
                "{}: {UNIT} does not start while it is not there, for its unit has it in ReadWritePaths=\n  = hint: {mend}",
                path.display()
            )
        });
        let written = written(config).into_iter().filter(|(path, _)| !is_below(path, &self.writable));
        let may_not_write = written.map(|(path, what)| {
            let mend = sandbox::lets_write(&path);
            format!("{} ({what}): {UNIT} may not write there\n  = hint: {mend}", path.display())
        });
        let directories = config.pools.iter().filter_map(|pool| Some(pool.files.as_ref()?.root.join("-")));
        let all: Vec<PathBuf> = config.files.iter().cloned().chain(directories).collect();
        let is_lost = |path: &&PathBuf| {
            is_below(path, &self.hidden) && (!is_below(path, &self.bound) || is_below(path, &self.inaccessible))
        };
        let read = all.iter().filter(is_lost);
        let does_not_see = read.map(|path| {
            let mend = sandbox::lets_read(path.parent().unwrap_or(path));
            format!(
                "{}: {UNIT} sees nothing in there\n  = hint: {mend}",
                path.display().to_string().trim_end_matches("/-")
            )
        });
        missing.chain(may_not_write).chain(does_not_see).collect()
    }
}

/// What this process, which has the node's user, may not write of what the node will.
pub(super) fn unwritable(config: &Config, user: &str) -> Vec<String> {
    use rustix::fs::{Access, access};
    let unwritable = written(config).into_iter().filter_map(|(path, what)| {
        let existing = path.ancestors().find(|above| above.exists())?;
        let error = access(existing, Access::WRITE_OK | Access::EXEC_OK).err()?;
        let mend = sandbox::makes(&path);
        let at = if existing == path { String::new() } else { format!(", and {} is there", existing.display()) };
        Some(format!("{} ({what}){at}: {user} may not write there: {error}\n  = hint: {mend}", path.display()))
    });
    unwritable.collect()
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

/// The assignments of a line as systemd shows them: `A=1 "B=two words"`.
fn assignments(line: &str) -> BTreeMap<String, String> {
    let (mut words, mut word, mut quoted, mut escaped) = (Vec::new(), String::new(), None, false);
    for letter in line.chars() {
        match letter {
            _ if escaped => {
                word.push(letter);
                escaped = false;
            }
            '\\' if quoted != Some('\'') => escaped = true,
            '"' | '\'' if quoted.is_none() => quoted = Some(letter),
            _ if quoted == Some(letter) => quoted = None,
            ' ' if quoted.is_none() => words.push(std::mem::take(&mut word)),
            _ => word.push(letter),
        }
    }
    words.push(word);
    words
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The assignment of a line of an `EnvironmentFile=` (systemd.exec(5)), if it has one.
fn of_a_file(line: &str) -> Option<(String, String)> {
    let (name, value) = line.trim().split_once('=').filter(|_| !line.trim_start().starts_with(['#', ';']))?;
    let value = value.trim();
    let unquoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    Some((name.trim().to_owned(), unquoted.unwrap_or(value).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "ExecStart={ path=/usr/bin/seawall ; argv[]=/usr/bin/seawall run --config /etc/seawall/seawall.toml ; ignore_errors=no }\n\
        User=seawall\nEnvironment=API_KEY=one \"NAME=two words\" LAST=\nEnvironmentFiles=/etc/seawall/env (ignore_errors=no)\nEnvironmentFiles=/none (ignore_errors=yes)\n\
        ProtectSystem=strict\nProtectHome=tmpfs\nPrivateTmp=yes\nStateDirectory=seawall\nCacheDirectory=seawall\n\
        LogsDirectory=seawall\nRuntimeDirectory=seawall\nReadWritePaths=-/disk1 /disk2\nBindReadOnlyPaths=/srv/certs:/home/shop/certs:rbind\n";

    fn of(shown: &str) -> Option<Service> {
        let read = |path: &str| {
            (path == "/etc/seawall/env").then(|| "# keys\nAPI_KEY = \"three\"\nQ='a b'\n\nno assignment\n".to_owned())
        };
        Service::parse(shown, Path::new("/etc/seawall/seawall.toml"), read)
    }

    fn firsts(service: &Service, text: &str, files: &[&str]) -> Vec<String> {
        let mut config = load::parse(Path::new("/etc/seawall/seawall.toml"), text).unwrap();
        config.files = files.iter().map(PathBuf::from).collect();
        service.warnings(&config).iter().map(|warning| warning.lines().next().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_the_unit_does_not_let_through_is_told() {
        let service = of(SHOWN).unwrap();
        let text = "[node]\nstate_dir = \"/srv/state\"\n[[listen]]\naddress = \"unix:/run/seawall/a.sock\"\n\
             [cache.disk]\npaths = [{ path = \"/disk1/cache\", max_size = \"1GiB\" }, { path = \"/disk3\", max_size = \"1GiB\" }]\n\
             [log]\naccess = \"/var/log/seawall/access.log\"\n";
        let files = ["/home/shop/certs/a.pem", "/home/other/a.pem", "/etc/ssl/a.pem"];
        assert_eq!(
            firsts(&service, text, &files),
            [
                "/disk2: seawall.service does not start while it is not there, for its unit has it in ReadWritePaths=",
                "/srv/state (state_dir in [node]): seawall.service may not write there",
                "/disk3 (a directory of [cache.disk]): seawall.service may not write there",
                "/home/other/a.pem: seawall.service sees nothing in there",
            ]
        );
        let hidden = of(&SHOWN.replace("tmpfs", "yes")).unwrap();
        let seen = firsts(&hidden, "", &["/home/shop/certs/a.pem"]);
        assert_eq!(
            seen[1], "/home/shop/certs/a.pem: seawall.service sees nothing in there",
            "systemd binds nothing there"
        );
        assert!(of(&SHOWN.replace("/etc/seawall/seawall.toml", "/tmp/other.toml")).is_none(), "it runs another file");
        assert_eq!(firsts(&of(&SHOWN.replace("strict", "no")).unwrap(), text, &files), [""; 0]);
    }

    #[test]
    fn its_environment_is_read_from_the_unit_and_its_files() {
        let service = of(SHOWN).unwrap();
        let of = |name: &str| service.environment().get(name).map(String::as_str);
        assert_eq!(service.user.as_deref(), Some("seawall"));
        for (name, value) in [
            ("API_KEY", Some("three")),
            ("NAME", Some("two words")),
            ("LAST", Some("")),
            ("Q", Some("a b")),
            ("STATE_DIRECTORY", Some("/var/lib/seawall")),
            ("NONE", None),
        ] {
            assert_eq!(of(name), value, "{name}");
        }
        let quoted = assignments(r#"A="b c" "D=e\"f" G=h\ i"#);
        assert_eq!(quoted.into_values().collect::<Vec<_>>(), ["b c", "e\"f", "h i"]);
    }
}
