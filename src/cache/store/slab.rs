//! Values in places that have numbers, and the orders that they stand in: what both tiers keep their entries in. Pure.

use std::ops;

/// No place.
pub(crate) const NIL: u32 = u32::MAX;
/// Instead of an older neighbour: the place is free.
const FREE: u32 = u32::MAX - 1;

/// Values by place. Eight bytes each beside the value.
pub(crate) struct Slab<T> {
    nodes: Vec<Node<T>>,
    free: u32,
}

struct Node<T> {
    value: T,
    /// Its neighbours in its order; of a free place, `newer` is the next free one.
    newer: u32,
    older: u32,
}

/// An order, from the newest on, and what all that stand in it weigh.
pub(crate) struct Order {
    pub newest: u32,
    pub oldest: u32,
    pub bytes: u64,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { nodes: Vec::new(), free: NIL }
    }
}

impl Default for Order {
    fn default() -> Self {
        Order { newest: NIL, oldest: NIL, bytes: 0 }
    }
}

impl<T> Slab<T> {
    /// Gives a value a place, as yet in no order.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        let node = Node { value, newer: NIL, older: NIL };
        match self.free {
            NIL => {
                if self.nodes.len() == self.nodes.capacity() {
                    self.nodes.reserve_exact(self.nodes.len() / 4 + 8); // by less than doubling: it is idle memory
                }
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32 // 2^32 of them do not fit into memory, by far
            }
            free => {
                self.free = self.nodes[free as usize].newer;
                self.nodes[free as usize] = node;
                free
            }
        }
    }

    /// Frees a place that is in no order.
    pub(crate) fn free(&mut self, at: u32) {
        let node = &mut self.nodes[at as usize];
        (node.newer, node.older) = (self.free, FREE);
        self.free = at;
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.nodes.get_mut(at as usize).map(|node| &mut node.value)
    }

    pub(crate) fn link_newest(&mut self, order: &mut Order, at: u32, bytes: u64) {
        self.link(order, at, (NIL, order.newest), bytes);
    }

    pub(crate) fn link_oldest(&mut self, order: &mut Order, at: u32, bytes: u64) {
        self.link(order, at, (order.oldest, NIL), bytes);
    }

    fn link(&mut self, order: &mut Order, at: u32, (newer, older): (u32, u32), bytes: u64) {
        let node = &mut self.nodes[at as usize];
        (node.newer, node.older) = (newer, older);
        match newer {
            NIL => order.newest = at,
            newer => self.nodes[newer as usize].older = at,
        }
        match older {
            NIL => order.oldest = at,
            older => self.nodes[older as usize].newer = at,
        }
        order.bytes += bytes;
    }

    pub(crate) fn unlink(&mut self, order: &mut Order, at: u32, bytes: u64) {
        let Node { newer, older, .. } = self.nodes[at as usize];
        match newer {
            NIL => order.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        match older {
            NIL => order.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
        order.bytes -= bytes;
    }

    /// Some values from a place on, and the place to go on from; `None` at the end. What is entered or removed meanwhile
    /// may or may not be among them.
    pub(crate) fn walk(&self, from: usize, most: usize) -> (impl Iterator<Item = &T>, Option<usize>) {
        let until = (from + most).min(self.nodes.len());
        let nodes = self.nodes.get(from..until).unwrap_or_default().iter().filter(|node| node.older != FREE);
        (nodes.map(|node| &node.value), Some(until).filter(|until| *until < self.nodes.len()))
    }

    /// All values of an order, the newest first.
    pub(crate) fn in_order(&self, order: &Order) -> impl Iterator<Item = &T> {
        let node = |at: u32| self.nodes.get(at as usize);
        std::iter::successors(node(order.newest), move |newer| node(newer.older)).map(|node| &node.value)
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        self.nodes.capacity() * size_of::<Node<T>>()
    }

    /// The places of an order, which is the same both ways.
    #[cfg(test)]
    pub(super) fn places(&self, order: &Order) -> Vec<u32> {
        let (mut places, mut newer, mut at) = (Vec::new(), NIL, order.newest);
        while at != NIL {
            assert_eq!(self.nodes[at as usize].newer, newer);
            places.push(at);
            (newer, at) = (at, self.nodes[at as usize].older);
        }
        assert_eq!(order.oldest, newer);
        places
    }
}

impl<T> ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        &self.nodes[at as usize].value
    }
}

impl<T> ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.nodes[at as usize].value
    }
}
