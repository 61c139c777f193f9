//! Two processes of one role at once, and a process that comes back after another has taken over.

use std::time::Duration;

use tokio::time::sleep;

use crate::fault::{Role, Side};
use crate::workers::WorkerId;
use crate::world::World;

/// A second source waits for the slot; then one of both dies.
pub async fn two_sources(world: &World, first_dies: bool, hold: Duration) -> anyhow::Result<()> {
    let first = world.workers.of(Role::Source)?;
    let second = world.workers.start(Role::Source, &[])?;
    sleep(hold).await;
    world
        .workers
        .kill(if first_dies { first } else { second })
        .await
}

/// The source stands still until the leader has given it up and another has taken over. What it
/// does when it goes on must count for nothing.
pub async fn stale_source(world: &World, first_dies: bool, hold: Duration) -> anyhow::Result<()> {
    let first = world.workers.of(Role::Source)?;
    let pids = world.workers.pid(first);
    world.paused.pause(&pids);
    let second = world.workers.start(Role::Source, &[])?;
    sleep(hold).await;
    world.paused.resume(&pids);
    sleep(hold / 4).await;
    world
        .workers
        .kill(if first_dies { first } else { second })
        .await
}

/// The second worker takes the sink over; the first one is fenced.
pub async fn two_sinks(world: &World, side: Side, hold: Duration) -> anyhow::Result<()> {
    let (first, second) = start_rival(world, side)?;
    sleep(hold).await;
    end_rival(world, first, second).await
}

/// The first worker stands still meanwhile, with a follower transaction open perhaps.
pub async fn stale_sink(world: &World, side: Side, hold: Duration) -> anyhow::Result<()> {
    let first = world.workers.of(Role::Sink(side))?;
    let pids = world.workers.pid(first);
    world.paused.pause(&pids);
    let (first, second) = start_rival(world, side)?;
    sleep(hold).await;
    world.paused.resume(&pids);
    sleep(hold / 4).await;
    end_rival(world, first, second).await
}

fn start_rival(world: &World, side: Side) -> anyhow::Result<(WorkerId, WorkerId)> {
    let first = world.workers.of(Role::Sink(side))?;
    let second = world.workers.start(Role::Sink(side), &[])?;
    // Either may claim last: the first one was connecting again, perhaps, when it was made to stand still.
    for rival in [first, second] {
        world.workers.allow_fence(rival, true);
    }
    Ok((first, second))
}

/// The fenced one of both goes.
async fn end_rival(world: &World, first: WorkerId, second: WorkerId) -> anyhow::Result<()> {
    let second_lost = world.workers.state(second).await.as_deref() == Some("fenced");
    let (lost, stays) = if second_lost {
        (second, first)
    } else {
        (first, second)
    };
    world.workers.kill(lost).await?;
    world.workers.allow_fence(stays, false);
    Ok(())
}
