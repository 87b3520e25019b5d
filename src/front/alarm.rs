//! A deadline that is put off with every request: one timer for a connection, which rings early and is set anew, rather
//! than one for each wait.

use std::pin::Pin;
use std::time::Instant;

use tokio::time::Sleep;

#[derive(Default)]
pub(crate) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ends when the time has come. Safe to cancel: it goes on from there.
    pub(crate) async fn at(&mut self, time: Instant) {
        let time = tokio::time::Instant::from_std(time);
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(time)));
        // One that rings earlier may stay as it is.
        if sleep.deadline() > time || sleep.is_elapsed() {
            sleep.as_mut().reset(time);
        }
        loop {
            sleep.as_mut().await;
            if tokio::time::Instant::now() >= time {
                return;
            }
            sleep.as_mut().reset(time);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_when_the_time_has_come_whatever_it_was_set_to_before() {
        let start = tokio::time::Instant::now();
        let after = |seconds| (start + Duration::from_secs(seconds)).into_std();
        let mut alarm = Alarm::default();
        for (given_up, rings) in [(None, 5), (Some(20), 8), (Some(9), 30), (None, 30)] {
            if let Some(given_up) = given_up {
                let early = tokio::time::timeout(Duration::from_millis(1), alarm.at(after(given_up))).await;
                assert!(early.is_err());
            }
            alarm.at(after(rings)).await;
            assert_eq!((tokio::time::Instant::now() - start).as_secs(), rings.max(5));
        }
    }
}
