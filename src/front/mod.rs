pub mod head;
pub mod stream;
