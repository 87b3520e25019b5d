//! Requests that wait until an origin of their pool has room: bounded in number and time, and each site in turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Why a request does not wait, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotServed {
    Full,
    TimedOut,
}

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    line: Mutex<Line>,
    /// Those that wait, and those that are called and have not looked yet.
    waiting: AtomicUsize,
}

/// Who comes next: the sites in turn, of each the one that came first.
#[derive(Debug, Default)]
struct Line {
    by_site: HashMap<Arc<str>, VecDeque<(u64, oneshot::Sender<()>)>>,
    turns: VecDeque<Arc<str>>,
    next_number: u64,
}

/// A place in the queue, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    queue: Arc<Queue>,
    site: Arc<str>,
    number: u64,
    called: Option<oneshot::Receiver<()>>,
}

impl Queue {
    /// Whether somebody waits, who is to go first.
    pub(super) fn is_used(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// A place at the end, unless `most` wait already.
    pub(super) fn join(self: &Arc<Self>, site: &Arc<str>, most: usize) -> Result<Place, NotServed> {
        let one_more = |waiting: usize| (waiting < most).then_some(waiting + 1);
        // In one order with the origins' counts: who leaves an origin sees who waits, or who comes to wait sees that one has left.
        let joined = self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        joined.map_err(|_| NotServed::Full)?;
        let mut line = self.line.lock();
        line.next_number += 1;
        Ok(Place { queue: self.clone(), site: site.clone(), number: line.next_number, called: None })
    }

    /// Calls the next one: there is room.
    pub(super) fn call(&self) {
        if self.is_used() {
            let mut line = self.line.lock();
            while line.next().is_some_and(|next| next.send(()).is_err()) {}
        }
    }
}

impl Line {
    fn next(&mut self) -> Option<oneshot::Sender<()>> {
        let site = self.turns.pop_front()?;
        let own = self.by_site.get_mut(&site)?;
        let next = own.pop_front();
        match own.is_empty() {
            true => _ = self.by_site.remove(&site),
            false => self.turns.push_back(site),
        }
        next.map(|(_, sender)| sender)
    }

    /// Whether nobody is before it then. `is_again`: it was called and found no room; it is still its turn.
    fn enter(&mut self, site: &Arc<str>, number: u64, sender: oneshot::Sender<()>, is_again: bool) -> bool {
        let own = self.by_site.entry(site.clone()).or_default();
        if own.is_empty() {
            self.turns.push_back(site.clone());
        }
        if is_again {
            self.turns.retain(|other| other != site);
            self.turns.push_front(site.clone());
        }
        // In the order in which they came, also who was called and found nothing.
        let at = own.partition_point(|(other, _)| *other < number);
        own.insert(at, (number, sender));
        at == 0 && self.turns.front() == Some(site)
    }

    fn leave(&mut self, site: &Arc<str>, number: u64) {
        let Some(own) = self.by_site.get_mut(site) else { return };
        if let Ok(at) = own.binary_search_by_key(&number, |(other, _)| *other) {
            own.remove(at);
        }
        if own.is_empty() {
            self.by_site.remove(site);
            self.turns.retain(|other| other != site);
        }
    }
}

impl Place {
    /// Has itself called when there is room; says whether nobody is before it. Whoever is the first looks after this: what became
    /// free before calls nobody.
    pub(super) fn enter(&mut self, is_again: bool) -> bool {
        let (sender, called) = oneshot::channel();
        self.called = Some(called);
        self.queue.line.lock().enter(&self.site, self.number, sender, is_again)
    }

    /// Waits until it is called, to look whether there is room.
    pub(super) async fn called(&mut self, deadline: Instant) -> Result<(), NotServed> {
        let Some(called) = &mut self.called else { return Err(NotServed::TimedOut) }; // it has not entered
        match timeout_at(deadline, called).await {
            Ok(Ok(())) => {
                self.called = None;
                Ok(())
            }
            _ => Err(NotServed::TimedOut),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::SeqCst);
        self.queue.line.lock().leave(&self.site, self.number);
        // It was called, and has not looked: that is for the next one.
        if self.called.take().is_some_and(|mut called| called.try_recv().is_ok()) {
            self.queue.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test(start_paused = true)]
    async fn sites_take_turns_and_of_each_the_first_goes_first() {
        let queue = Arc::new(Queue::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = Vec::new();
        for (number, site) in ["busy", "busy", "busy", "small", "busy"].into_iter().enumerate() {
            let (mut place, order) = (queue.join(&site.into(), 10).unwrap(), order.clone());
            waiters.push(tokio::spawn(async move {
                place.enter(false);
                place.called(later()).await.unwrap();
                order.lock().push(number);
            }));
            tokio::task::yield_now().await;
        }
        for _ in 0..5 {
            queue.call();
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*order.lock(), [0, 3, 1, 2, 4]);
        assert!(!queue.is_used());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_in_number_and_time() {
        let queue = Arc::new(Queue::default());
        let mut places: Vec<Place> = (0..2).map(|_| queue.join(&"a".into(), 2).unwrap()).collect();
        assert_eq!(queue.join(&"b".into(), 2).unwrap_err(), NotServed::Full);
        places[0].enter(false);
        assert_eq!(places[0].called(soon()).await, Err(NotServed::TimedOut));
        drop(places);
        assert!(!queue.is_used() && queue.line.lock().by_site.is_empty() && queue.line.lock().turns.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_called_and_does_not_look_lets_the_next_one_go() {
        let queue = Arc::new(Queue::default());
        let [mut first, mut second] = [(); 2].map(|()| queue.join(&"a".into(), 2).unwrap());
        assert!(first.enter(false) && !second.enter(false));
        queue.call();
        drop(first); // its client is gone
        assert_eq!(second.called(soon()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_found_nothing_goes_before_those_who_came_later() {
        let queue = Arc::new(Queue::default());
        let [mut first, mut second] = [(); 2].map(|()| queue.join(&"a".into(), 2).unwrap());
        first.enter(false);
        second.enter(false);
        queue.call();
        first.called(soon()).await.unwrap();
        first.enter(false); // there was no room after all
        queue.call();
        assert_eq!(first.called(soon()).await, Ok(()));
        assert_eq!(second.called(soon()).await, Err(NotServed::TimedOut));
    }

    #[tokio::test]
    async fn whoever_was_called_and_found_no_room_is_called_again_first() {
        let queue = Arc::<Queue>::default();
        let [busy, quiet] = ["busy", "quiet"].map(Arc::<str>::from);
        let join = |site| queue.join(site, 9).unwrap();
        let mut places = [join(&busy), join(&busy), join(&busy), join(&quiet)];
        places.iter_mut().for_each(|place| _ = place.enter(false));
        // Each time two calls come for one free place.
        let mut served = Vec::new();
        for expected in [0, 3, 1, 2] {
            queue.call();
            places[expected].called(soon()).await.unwrap();
            assert!(places[expected].enter(true), "it is still its turn");
            queue.call();
            places[expected].called(soon()).await.unwrap();
            served.push(expected);
        }
        assert_eq!(served, [0, 3, 1, 2]);
    }
}
