//! Futures in boxes.

use std::pin::Pin;

/// A large future in a box. It is made where it lies: `Box::pin` makes it on the stack and copies all the room it may need.
pub(crate) fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}
