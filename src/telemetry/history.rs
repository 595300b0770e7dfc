//! Counts of recent time in steps, in a ring of fixed size that overwrites the oldest step.

/// `N` steps. The newest is the last that was counted in.
#[derive(Clone, Debug)]
pub(super) struct Ring<T, const N: usize> {
    slots: [T; N],
    /// The number of the newest step.
    newest: u64,
}

impl<T: Copy + Default, const N: usize> Default for Ring<T, N> {
    fn default() -> Self {
        Ring {
            slots: [T::default(); N],
            newest: 0,
        }
    }
}

impl<T: Copy + Default, const N: usize> Ring<T, N> {
    /// The count of this step. If the clock was set back, the count of the newest step.
    pub(super) fn at(&mut self, step: u64) -> &mut T {
        let passed = step.saturating_sub(self.newest);
        for step in (self.newest + 1..=step).take(N.min(passed as usize)) {
            self.slots[(step % N as u64) as usize] = T::default();
        }
        if passed as usize >= N {
            self.slots = [T::default(); N];
        }
        self.newest += passed;
        &mut self.slots[(self.newest % N as u64) as usize]
    }

    /// The last `N` steps with their numbers, oldest first. Steps without a count have the default.
    pub(super) fn recent(&self, now: u64) -> impl Iterator<Item = (u64, T)> + '_ {
        let last = now.max(self.newest).max(N as u64);
        (last + 1 - N as u64..=last).map(|step| {
            let held = step <= self.newest && step + N as u64 > self.newest;
            let count = held.then(|| self.slots[(step % N as u64) as usize]);
            (step, count.unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_clock_that_is_set_back_loses_nothing() {
        let mut ring = Ring::<u32, 4>::default();
        *ring.at(10) += 1;
        *ring.at(7) += 1;
        assert_eq!(
            ring.recent(7).collect::<Vec<_>>(),
            [(7, 0), (8, 0), (9, 0), (10, 2)]
        );
    }

    proptest! {
        #[test]
        fn it_counts_as_a_complete_list_would(gaps in prop::collection::vec(0u64..9, 0..60), later in 0u64..9) {
            let (mut ring, mut all, mut step) = (Ring::<u32, 4>::default(), Vec::new(), 100);
            for gap in gaps {
                step += gap;
                *ring.at(step) += 1;
                all.push(step);
            }
            let now = step + later;
            let recent: Vec<_> = ring.recent(now).collect();
            let want: Vec<_> = (now - 3..=now)
                .map(|step| (step, all.iter().filter(|counted| **counted == step).count() as u32))
                .collect();
            prop_assert_eq!(recent, want);
        }
    }
}
