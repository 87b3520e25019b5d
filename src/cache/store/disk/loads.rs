//! Reading once what several ask for at one time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::cache::trouble::Trouble;

type Cell<T> = Arc<OnceCell<Result<T, Trouble>>>;

/// What is being read.
pub(crate) struct Loads<K, T>(Mutex<HashMap<K, Cell<T>>>);

impl<K, T> Default for Loads<K, T> {
    fn default() -> Self {
        Loads(Mutex::default())
    }
}

impl<K: Copy + Eq + Hash, T: Clone> Loads<K, T> {
    /// Reads, or waits for who does. If that one leaves, another goes on.
    pub(crate) async fn once<F: Future<Output = Result<T, Trouble>>>(
        &self,
        key: K,
        load: impl FnOnce() -> F,
    ) -> Result<T, Trouble> {
        let seat = Seat { loads: self, key, cell: self.0.lock().entry(key).or_default().clone() };
        seat.cell.get_or_init(load).await.clone()
    }
}

struct Seat<'a, K: Eq + Hash, T> {
    loads: &'a Loads<K, T>,
    key: K,
    cell: Cell<T>,
}

impl<K: Eq + Hash, T> Drop for Seat<'_, K, T> {
    fn drop(&mut self) {
        let mut loads = self.loads.0.lock();
        // This one and the map's: nobody else is there, and nobody can come while the map is locked.
        if Arc::strong_count(&self.cell) == 2 {
            loads.remove(&self.key);
        }
    }
}
