//! Things under way, by number: a place in a table and a generation, so that a number is never taken for another.

/// A table; see the module.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    places: Vec<(u32, Option<T>)>,
    vacant: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            vacant: Vec::new(),
        }
    }
}

const fn place(id: u64) -> usize {
    (id & 0xffff_ffff) as usize
}

impl<T> Slots<T> {
    /// Keeps a thing; its number, below 2⁶².
    pub(crate) fn insert(&mut self, thing: T) -> u64 {
        if let Some(place) = self.vacant.pop()
            && let Some((generation, slot)) = self.places.get_mut(place as usize)
        {
            *slot = Some(thing);
            return u64::from(*generation) << 32 | u64::from(place);
        }
        self.places.push((0, Some(thing)));
        (self.places.len() - 1) as u64
    }

    /// The thing of that number.
    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        let (generation, slot) = self.places.get_mut(place(id))?;
        (u64::from(*generation) == id >> 32)
            .then_some(slot.as_mut())
            .flatten()
    }

    /// The same, to look at.
    pub(crate) fn get(&self, id: u64) -> Option<&T> {
        let (generation, slot) = self.places.get(place(id))?;
        (u64::from(*generation) == id >> 32)
            .then_some(slot.as_ref())
            .flatten()
    }

    /// Takes it out.
    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        let (generation, slot) = self.places.get_mut(place(id))?;
        if u64::from(*generation) != id >> 32 {
            return None;
        }
        let thing = slot.take()?;
        *generation = (*generation + 1) & 0x3fff_ffff;
        self.vacant.push(place(id) as u32);
        Some(thing)
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.places.len() - self.vacant.len()
    }

    /// All numbers in use.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let id = |(place, (generation, slot)): (usize, &(u32, Option<T>))| {
            slot.as_ref()
                .map(|_| u64::from(*generation) << 32 | place as u64)
        };
        self.places.iter().enumerate().filter_map(id).collect()
    }
}

/// Things under way by somebody else's numbers.
#[derive(Debug)]
pub(crate) struct Beside<T> {
    places: Vec<Option<(u64, T)>>,
}

impl<T> Default for Beside<T> {
    fn default() -> Self {
        Self { places: Vec::new() }
    }
}

impl<T> Beside<T> {
    /// Keeps a thing beside the request of that number.
    pub(crate) fn insert(&mut self, id: u64, thing: T) {
        if self.places.len() <= place(id) {
            self.places.resize_with(place(id) + 1, || None);
        }
        if let Some(slot) = self.places.get_mut(place(id)) {
            *slot = Some((id, thing));
        }
    }

    /// The thing beside it.
    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        match self.places.get_mut(place(id)) {
            Some(Some((owner, thing))) if *owner == id => Some(thing),
            _ => None,
        }
    }

    /// Takes it away.
    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        let slot = self.places.get_mut(place(id))?;
        match slot.take() {
            Some((owner, thing)) if owner == id => Some(thing),
            other => {
                *slot = other;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_has_ended_is_never_taken_for_the_next_in_its_place() {
        let mut slots = Slots::default();
        let first = slots.insert('a');
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('b');
        assert_ne!(first, second);
        assert_eq!((slots.get(first), slots.get(second)), (None, Some(&'b')));
        let mut beside = Beside::default();
        beside.insert(first, 1);
        assert_eq!(beside.remove(second), None);
        assert_eq!(beside.remove(first), Some(1));
    }
}
