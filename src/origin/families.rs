//! Both families of an origin's addresses (RFC 8305): where the one does not answer soon, the other is tried beside it, and whichever
//! connects first is taken. On many machines IPv6 leads nowhere, and says nothing.

use std::pin::pin;
use std::time::Duration;

/// When the second is begun; the RFC calls it the Connection Attempt Delay.
pub(super) const DELAY: Duration = Duration::from_millis(250);

/// What two attempts have come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Raced<T, E> {
    First(T),
    /// The first one had failed by then; `None`: it had come to nothing yet.
    Second(T, Option<E>),
    Neither(E, E),
}

/// Makes the second attempt as well if the first one fails, or is not done when `delay` is over. What comes later is given up.
pub(super) async fn race<T, E>(
    first: impl Future<Output = Result<T, E>>,
    second: impl Future<Output = Result<T, E>>,
    delay: impl Future<Output = ()>,
) -> Raced<T, E> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let failed = tokio::select! {
        biased;
        done = &mut first => match done {
            Ok(done) => return Raced::First(done),
            Err(error) => Some(error),
        },
        () = delay => None,
    };
    let failed = match failed {
        Some(error) => error,
        None => tokio::select! {
            biased;
            done = &mut first => match done {
                Ok(done) => return Raced::First(done),
                Err(error) => error,
            },
            done = &mut second => return match done {
                Ok(done) => Raced::Second(done, None),
                Err(second) => match first.await {
                    Ok(done) => Raced::First(done),
                    Err(first) => Raced::Neither(first, second),
                },
            },
        },
    };
    match second.await {
        Ok(done) => Raced::Second(done, Some(failed)),
        Err(second) => Raced::Neither(failed, second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Is done when it has been asked so many times.
    async fn after(times: usize) {
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
    }

    async fn attempt((times, result): (usize, Result<u8, u8>)) -> Result<u8, u8> {
        after(times).await;
        result
    }

    #[tokio::test]
    async fn whichever_connects_first_is_taken() {
        for (first, second, expected) in [
            ((1, Ok(1)), (0, Ok(2)), Raced::First(1)),
            ((1, Err(1)), (5, Ok(2)), Raced::Second(2, Some(1))),
            ((1, Err(1)), (5, Err(2)), Raced::Neither(1, 2)),
            ((99, Ok(1)), (5, Ok(2)), Raced::Second(2, None)),
            ((12, Ok(1)), (5, Ok(2)), Raced::First(1)),
            ((12, Err(1)), (5, Ok(2)), Raced::Second(2, Some(1))),
            ((30, Ok(1)), (5, Err(2)), Raced::First(1)),
            ((30, Err(1)), (5, Err(2)), Raced::Neither(1, 2)),
        ] {
            assert_eq!(race(attempt(first), attempt(second), after(10)).await, expected, "{first:?} {second:?}");
        }
    }
}
