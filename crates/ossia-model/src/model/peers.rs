//! The other ranks of a model in tensor parallel, each in a thread of its own that waits for the next pass.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use ossia_kernels::{Communicator, KernelError};

use super::ModelOptions;
use super::rank::Rank;
use crate::weights::WeightSource;
use crate::{ForwardBatch, GptOssConfig, KvCache, Logits, ModelError};

/// One of them.
struct Peer {
    /// Closed, it ends the thread.
    passes: Option<Sender<Pass>>,
    results: Receiver<Result<(), ModelError>>,
    thread: Option<JoinHandle<()>>,
}

/// What all ranks compute together.
struct Pass {
    batch: Arc<ForwardBatch>,
    kv: Arc<Mutex<KvCache>>,
}

/// Peers that are loading their weights.
pub(super) struct Loading(Vec<(Peer, Receiver<Result<u64, ModelError>>)>);

/// All of them, ready. Locked while a pass runs: it is one at a time.
pub(super) struct Peers(Mutex<Vec<Peer>>);

impl Loading {
    /// Starts a thread for each of the ranks that `communicators` are of, on the backends of `options.peers`.
    pub(super) fn start(
        config: &GptOssConfig,
        source: &Arc<dyn WeightSource>,
        options: &ModelOptions,
        communicators: impl Iterator<Item = Communicator>,
    ) -> Result<Self, ModelError> {
        let peers = options.peers.iter().zip(communicators).map(|(backend, communicator)| {
            let options = ModelOptions { backend: backend.clone(), peers: Vec::new(), ..options.clone() };
            let (config, source) = (config.clone(), source.clone());
            let (loaded, is_loaded) = channel();
            let (passes, next_pass) = channel();
            let (done, results) = channel();
            let name = format!("ossia-rank-{}", communicator.rank());
            let work = move || {
                let rank = Rank::load(&config, &*source, &options, communicator, &mut |_| {});
                drop(source);
                match rank {
                    Ok(rank) => {
                        let _ = loaded.send(Ok(rank.weight_bytes));
                        serve(&rank, &next_pass, &done);
                    }
                    Err(error) => drop(loaded.send(Err(error))),
                }
            };
            let thread = std::thread::Builder::new().name(name).spawn(work);
            let thread = thread.map_err(|error| failure(format!("no thread for a rank: {error}")))?;
            Ok((Peer { passes: Some(passes), results, thread: Some(thread) }, is_loaded))
        });
        Ok(Self(peers.collect::<Result<_, ModelError>>()?))
    }

    /// All peers and the bytes of their weights, once they are there.
    pub(super) fn finish(self) -> Result<(Peers, u64), ModelError> {
        let (mut peers, mut weight_bytes) = (Vec::new(), 0);
        for (peer, is_loaded) in self.0 {
            weight_bytes +=
                is_loaded.recv().map_err(|_| failure("a rank ended while it loaded".to_owned()))??;
            peers.push(peer);
        }
        Ok((Peers(Mutex::new(peers)), weight_bytes))
    }
}

impl Peers {
    /// Runs `own`, the first rank's part of a pass, here and the others' parts in their threads over `caches`, one for each. If one
    /// fails, nobody waits for it.
    pub(super) fn run_beside(
        &self,
        communicator: &Communicator,
        batch: &ForwardBatch,
        caches: &[Arc<Mutex<KvCache>>],
        own: impl FnOnce() -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.is_empty() {
            return own();
        }
        let batch = Arc::new(batch.clone());
        for (peer, kv) in peers.iter().zip(caches) {
            if let Some(passes) = &peer.passes {
                // Whoever is gone has no result either, which is found below.
                let _ = passes.send(Pass { batch: batch.clone(), kv: kv.clone() });
            }
        }
        let own = giving_up_on_failure(communicator, own);
        let mut results = vec![own];
        for peer in peers.iter() {
            let result = peer.results.recv().unwrap_or_else(|_| Err(failure("a rank is gone".to_owned())));
            results.push(Ok(result));
        }
        communicator.begin_anew();
        let results: Vec<_> =
            results.into_iter().map(|result| result.unwrap_or_else(|panic| resume_unwind(panic))).collect();
        first_failure(results)
    }
}

/// Runs one pass after the other until there are no more.
fn serve(rank: &Rank, passes: &Receiver<Pass>, done: &Sender<Result<(), ModelError>>) {
    let mut logits = Logits::default();
    for Pass { batch, kv } in passes {
        let mut kv = kv.lock().unwrap_or_else(PoisonError::into_inner);
        let result = giving_up_on_failure(&rank.communicator, || rank.pass(&batch, &mut kv, &mut logits));
        let result =
            result.unwrap_or_else(|_| Err(failure(format!("rank {} panicked", rank.communicator.rank()))));
        if done.send(result).is_err() {
            return;
        }
    }
}

/// Runs a rank's part of a pass; if it fails, or panics, the ranks that wait for it are told.
fn giving_up_on_failure(
    communicator: &Communicator,
    part: impl FnOnce() -> Result<(), ModelError>,
) -> Result<Result<(), ModelError>, Box<dyn Any + Send>> {
    let result = catch_unwind(AssertUnwindSafe(part));
    if !matches!(result, Ok(Ok(()))) {
        communicator.give_up();
    }
    result
}

/// The failure that the others are told of, if any: those who only waited for another come last.
fn first_failure(results: Vec<Result<(), ModelError>>) -> Result<(), ModelError> {
    let mut failures: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    failures.sort_by_key(|failure| matches!(failure, ModelError::Kernel(KernelError::GaveUp)));
    failures.into_iter().next().map_or(Ok(()), Err)
}

fn failure(message: String) -> ModelError {
    ModelError::Kernel(KernelError::Ranks { message })
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.passes = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ossia_kernels::{Backend, BlockTable};

    use super::*;
    use crate::{GptOss, KvMetadata};

    /// A model of so many layers of each type on two ranks.
    fn model(layers_of_type: usize) -> GptOss {
        let config = include_str!("../../../../tests/parity/configs/tiny.json");
        let config = GptOssConfig::from_json(config).unwrap();
        let config = GptOssConfig {
            layer_types: config.layer_types.repeat(layers_of_type),
            num_hidden_layers: 2 * layers_of_type,
            ..config
        };
        let options = ModelOptions { peers: vec![Backend::cpu()], ..ModelOptions::default() };
        GptOss::dummy(config, 5, &options).unwrap()
    }

    /// One token of a new sequence.
    fn batch() -> ForwardBatch {
        let group = |block: u32| KvMetadata {
            block_tables: vec![BlockTable { first_block_idx: 0, blocks: vec![block] }],
            slot_mapping: vec![block * 16],
        };
        ForwardBatch {
            input_ids: vec![7],
            positions: vec![0],
            cu_seqlens_q: vec![0, 1],
            context_lens: vec![1],
            full: group(0),
            sliding: group(1),
            logits_indices: vec![0],
            draw_rows: vec![],
        }
    }

    #[test]
    fn a_rank_that_fails_is_named_and_the_next_pass_is_computed() {
        let (model, shallow) = (model(2), model(1));
        let mut good = model.allocate_kv_cache(4, 16).unwrap();
        let expected = model.forward(&batch(), &mut good).unwrap();
        // The cache of the second rank is that of a shallower model: it fails half-way, while the first waits for it.
        let mut bad = model.allocate_kv_cache(4, 16).unwrap();
        bad.peers = shallow.allocate_kv_cache(4, 16).unwrap().peers;
        let error = model.forward(&batch(), &mut bad).unwrap_err().to_string();
        assert!(error.contains("is a cache of 1 layers"), "{error}");
        assert_eq!(model.forward(&batch(), &mut good).unwrap(), expected);
        // The other way round: the first fails while the second waits.
        let mut bad = shallow.allocate_kv_cache(4, 16).unwrap();
        bad.peers = model.allocate_kv_cache(4, 16).unwrap().peers;
        let error = model.forward(&batch(), &mut bad).unwrap_err().to_string();
        assert!(error.contains("is a cache of 1 layers"), "{error}");
        assert_eq!(model.forward(&batch(), &mut good).unwrap(), expected);
    }
}
