//! What operators order of origins at run time, by the admin API: it is kept over reloads and, in the state directory, over restarts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

const FILE: &str = "origins.json";

/// What is ordered of one origin.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Order {
    /// It gets no new requests.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Instead of the configured one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Of a split: instead of the configured one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// By pool and origin, as they are called in the configuration.
type All = BTreeMap<String, BTreeMap<String, Order>>;

/// All orders, and where they are kept.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    directory: Option<PathBuf>,
    all: Mutex<All>,
    /// Held while the file is written.
    writing: Mutex<()>,
}

impl Orders {
    /// Those of a state directory. A file that cannot be understood is put aside: nothing of it is lost, and the node starts.
    pub(crate) fn open(directory: Option<&Path>) -> Self {
        let all = directory.map(read).unwrap_or_default();
        Orders { directory: directory.map(Path::to_owned), all: Mutex::new(all), writing: Mutex::default() }
    }

    pub(crate) fn of(&self, pool: &str, origin: &str) -> Order {
        self.all.lock().get(pool).and_then(|origins| origins.get(origin)).copied().unwrap_or_default()
    }

    /// Changes what is ordered of an origin, and has it obeyed; gives what is ordered then.
    pub(crate) fn change(
        &self,
        pool: &str,
        origin: &str,
        change: impl FnOnce(&mut Order),
        obey: impl FnOnce(Order),
    ) -> Order {
        let mut all = self.all.lock();
        let origins = all.entry(pool.to_owned()).or_default();
        let mut order = origins.get(origin).copied().unwrap_or_default();
        change(&mut order);
        match order == Order::default() {
            true => _ = origins.remove(origin),
            false => _ = origins.insert(origin.to_owned(), order),
        }
        all.retain(|_, origins| !origins.is_empty());
        obey(order); // before another order is given
        order
    }

    /// Writes what is ordered, which may wait for a disk. `false`: there is no directory, and a restart forgets it.
    pub(crate) fn write(&self) -> io::Result<bool> {
        let Some(directory) = &self.directory else { return Ok(false) };
        let _one_at_a_time = self.writing.lock();
        let all = self.all.lock().clone(); // the last one that writes has all of them
        write(directory, &all).map(|()| true)
    }
}

fn read(directory: &Path) -> All {
    let path = directory.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return All::new(),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "what was ordered of origins is not known: none is drained");
            return All::new();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        let aside = directory.join("origins.broken");
        let hint = "look into it, and give the orders again with seawall pools";
        let moved = fs::rename(&path, &aside).map_or_else(|error| error.to_string(), |()| aside.display().to_string());
        tracing::error!(path = %path.display(), %error, moved, hint, "what was ordered of origins cannot be read: none is drained");
        All::new()
    })
}

fn write(directory: &Path, all: &All) -> io::Result<()> {
    let aside = directory.join("origins.new");
    let mut file = File::create(&aside)?;
    file.write_all(&serde_json::to_vec_pretty(all)?)?;
    file.sync_all()?;
    fs::rename(aside, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_kept_and_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = Some(directory.path());
        let orders = Orders::open(path);
        orders.change("app", "a:1", |order| order.draining = true, drop);
        let order = orders.change("app", "b:1", |order| order.weight = Some(7), drop);
        assert_eq!((order.weight, orders.write().unwrap()), (Some(7), true));
        let again = Orders::open(path);
        assert_eq!(again.of("app", "a:1"), Order { draining: true, ..Order::default() });
        assert_eq!(again.of("app", "b:1"), Order { weight: Some(7), ..Order::default() });
        assert_eq!(again.of("app", "c:1"), Order::default());
        again.change("app", "a:1", |order| order.draining = false, drop);
        again.change("app", "b:1", |order| order.weight = None, drop);
        again.write().unwrap();
        assert_eq!(fs::read_to_string(directory.path().join(FILE)).unwrap(), "{}");
        assert!(!Orders::open(None).write().unwrap());
    }

    #[test]
    fn what_cannot_be_understood_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "{\"app\": 7}").unwrap();
        assert_eq!(Orders::open(Some(directory.path())).of("app", "a:1"), Order::default());
        assert_eq!(fs::read_to_string(directory.path().join("origins.broken")).unwrap(), "{\"app\": 7}");
    }
}
