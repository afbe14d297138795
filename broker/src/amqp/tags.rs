//! Which deliveries of a channel are out, so that many can be acknowledged in one word. Pure.
//!
//! AMQP's `multiple` acknowledges every tag up to one, so it may be said only where no other below is out.

use std::collections::BTreeSet;

/// One acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) tag: u64,
    pub(super) multiple: bool,
}

/// The tags of one channel that came and are unsettled: as many as the prefetch allows.
#[derive(Debug, Default)]
pub(super) struct Tags(BTreeSet<u64>);

impl Tags {
    /// Notes a delivery.
    pub(super) fn take(&mut self, tag: u64) {
        self.0.insert(tag);
    }

    /// How many came and are unsettled.
    pub(super) fn out(&self) -> usize {
        self.0.len()
    }

    /// Notes a tag that is settled by itself.
    pub(super) fn settle(&mut self, tag: u64) {
        self.0.remove(&tag);
    }

    /// The fewest words that acknowledge these tags, each of which is out and named once.
    pub(super) fn ack(&mut self, mut tags: Vec<u64>) -> Vec<Ack> {
        tags.sort_unstable();
        tags.iter().for_each(|tag| self.settle(*tag));
        // What has not come yet has a higher tag than all that have.
        let lowest_out = self.0.first().copied().unwrap_or(u64::MAX);
        let (together, alone) = tags.split_at(tags.partition_point(|tag| *tag < lowest_out));
        let first = together.last().map(|tag| Ack { tag: *tag, multiple: together.len() > 1 });
        let alone = alone.iter().map(|tag| Ack { tag: *tag, multiple: false });
        first.into_iter().chain(alone).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tags(out: impl IntoIterator<Item = u64>) -> Tags {
        Tags(out.into_iter().collect())
    }

    fn words(tags: &mut Tags, acked: &[u64]) -> Vec<(u64, bool)> {
        tags.ack(acked.to_vec()).into_iter().map(|ack| (ack.tag, ack.multiple)).collect()
    }

    #[test]
    fn tags_with_none_out_below_are_acknowledged_in_one_word() {
        let mut tags = tags(1..=10);
        assert_eq!(words(&mut tags, &[3, 1, 2]), [(3, true)]);
        assert_eq!(words(&mut tags, &[4]), [(4, false)]);
        assert_eq!(words(&mut tags, &[7, 6]), [(6, false), (7, false)], "5 is still out");
        assert_eq!(words(&mut tags, &[5, 8, 10]), [(8, true), (10, false)]);
    }

    #[test]
    fn a_word_names_a_tag_that_was_out() {
        let mut tags = tags(1..=4);
        tags.settle(3);
        assert_eq!(words(&mut tags, &[1, 2]), [(2, true)], "3 was rejected: it cannot be acknowledged");
        assert_eq!(words(&mut tags, &[4]), [(4, false)]);
    }

    #[test]
    fn what_came_and_is_unsettled_is_out() {
        let mut tags = Tags::default();
        (1..=4).for_each(|tag| tags.take(tag));
        tags.settle(3);
        assert_eq!(tags.out(), 3);
        tags.ack(vec![1, 4]);
        assert_eq!(tags.out(), 1);
        tags.ack(vec![2]);
        assert_eq!(tags.out(), 0);
    }

    proptest! {
        /// A broker's books: whatever the order, each tag is settled exactly when it was meant to be.
        #[test]
        fn no_tag_is_settled_that_was_not_meant(
            order in Just((1_u64..40).collect::<Vec<_>>()).prop_shuffle(),
            sizes in proptest::collection::vec(1_usize..6, 1..20),
            rejects in any::<u64>(),
        ) {
            let (mut tags, mut rest) = (tags(1..40), order.as_slice());
            let mut unsettled: BTreeSet<u64> = (1..40).collect();
            for (step, size) in sizes.into_iter().enumerate() {
                let (batch, later) = rest.split_at(size.min(rest.len()));
                rest = later;
                let mut meant = unsettled.clone();
                batch.iter().for_each(|tag| { meant.remove(tag); });
                if rejects >> step & 1 == 1 {
                    batch.iter().for_each(|tag| { tags.settle(*tag); unsettled.remove(tag); });
                } else {
                    for Ack { tag, multiple } in tags.ack(batch.to_vec()) {
                        prop_assert!(unsettled.contains(&tag), "tag {tag} is not out");
                        unsettled.retain(|out| *out != tag && !(multiple && *out < tag));
                    }
                }
                prop_assert_eq!(&unsettled, &meant);
            }
        }
    }
}
