//! Reading once what several ask for at one time.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::super::super::trouble::Trouble;
use super::Loaded;
use super::id::KeyHash;

type Cell = Arc<OnceCell<Result<Loaded, Trouble>>>;

/// What is being read.
#[derive(Default)]
pub struct Loads(Mutex<HashMap<KeyHash, Cell>>);

impl Loads {
    /// Reads, or waits for who does. If that one leaves, another goes on.
    pub async fn once<F: Future<Output = Result<Loaded, Trouble>>>(
        &self,
        key: KeyHash,
        load: impl FnOnce() -> F,
    ) -> Result<Loaded, Trouble> {
        let seat = Seat { loads: self, key, cell: self.0.lock().entry(key).or_default().clone() };
        seat.cell.get_or_init(load).await.clone()
    }
}

struct Seat<'a> {
    loads: &'a Loads,
    key: KeyHash,
    cell: Cell,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut loads = self.loads.0.lock();
        // This one and the map's: nobody else is there, and nobody can come while the map is locked.
        if Arc::strong_count(&self.cell) == 2 {
            loads.remove(&self.key);
        }
    }
}
