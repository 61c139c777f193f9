use super::*;

/// Which partitions are assigned, and the most there ever were.
#[derive(Default)]
struct Assigned {
    now: std::collections::BTreeSet<(String, i32)>,
    most: usize,
}

impl Records for Assigned {
    fn assign(&mut self, topic: &str, partition: i32, _offset: i64) -> Result<()> {
        self.now.insert((topic.to_owned(), partition));
        self.most = self.most.max(self.now.len());
        Ok(())
    }
    fn unassign(&mut self, topic: &str, partition: i32) -> Result<()> {
        assert!(self.now.remove(&(topic.to_owned(), partition)));
        Ok(())
    }
    fn next<R>(
        &mut self,
        _topic: &str,
        _partition: i32,
        _timeout: Duration,
        _take: impl FnOnce(Record<'_>) -> R,
    ) -> Result<Option<R>> {
        unreachable!("nothing is read here")
    }
    fn watermarks(&self, _topic: &str, _partition: i32) -> Result<(i64, i64)> {
        Ok((0, 0))
    }
    fn lows(&self, partitions: &[(&str, i32)]) -> Result<Vec<i64>> {
        Ok(vec![0; partitions.len()])
    }
    fn introduce(&mut self, _topics: &[&str]) {}
}

fn topic(number: usize) -> String {
    format!("p.public.t{number}")
}

fn source() -> Partitions<Assigned> {
    Partitions::new(Assigned::default(), CancellationToken::new())
}

#[test]
fn topics_read_one_after_the_other_stay_assigned_only_while_they_are_the_latest() {
    let mut source = source();
    for number in 0..1_000 {
        for partition in 0..4 {
            source.stand(&topic(number), partition, 0).expect("memory");
        }
        source.rest(&topic(number)).expect("memory");
    }
    assert_eq!(source.records.most, ASSIGNED_MAX + 4);
    let latest = 1_000 - ASSIGNED_MAX / 4;
    for number in 0..1_000 {
        let stands = source.next_offset(&topic(number), 3) == Some(0);
        assert_eq!(stands, number >= latest, "topic {number}");
    }
}

#[test]
fn what_is_being_read_stays_assigned_however_much_it_is() {
    let mut source = source();
    let many = 2 * ASSIGNED_MAX;
    for number in 0..many {
        source.stand(&topic(number), 0, 0).expect("memory");
    }
    source.rest(&topic(0)).expect("memory");
    assert_eq!(
        source.records.now.len(),
        many - 1,
        "the one at rest has gone"
    );
    for number in 1..many {
        source.rest(&topic(number)).expect("memory");
    }
    assert_eq!(source.records.now.len(), ASSIGNED_MAX);
}

#[test]
fn of_many_cursors_as_many_are_assigned_as_may_stay() {
    let mut source = source();
    let cursors = (0..1_000).map(|number| (topic(number), [(0, 7)].into()));
    source.seek_all(&cursors.collect()).expect("memory");
    assert_eq!(source.records.most, ASSIGNED_MAX);
    source.stand("p.public.other", 0, 0).expect("memory");
    source.rest("p.public.other").expect("memory");
    assert_eq!(source.records.now.len(), ASSIGNED_MAX);
}
