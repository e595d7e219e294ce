"""A request's penalties are those it would have alone, whatever becomes of it in between."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

import autellix_sgl.runtime  # noqa: F401 (prepares the process for sglang)
from autellix_sgl.runtime.scheduler.penalties import OutputPenalties

# isort: split
from sglang.srt.sampling import penaltylib
from sglang.srt.sampling.penaltylib.orchestrator import BatchedPenalizerOrchestrator
from sglang.srt.sampling.sampling_params import SamplingParams

VOCABULARY = 12
STOP = 3
KINDS = {
    penaltylib.BatchedFrequencyPenalizer,
    penaltylib.BatchedMinNewTokensPenalizer,
    penaltylib.BatchedPresencePenalizer,
    penaltylib.BatchedRepetitionPenalizer,
}
TOKENIZER = SimpleNamespace(eos_token_id=STOP, additional_stop_token_ids=None)


Seen = list[tuple["Request", int, torch.Tensor]]


class Request:
    """What the penalisers see of a request, and what it is going to sample."""

    def __init__(self, prompt: list[int], answer: list[int], params: SamplingParams) -> None:
        self.origin_input_ids = array("q", prompt)
        self.output_ids = array("q")
        self.answer = answer
        self.sampled = 0
        self.sampling_params = params
        self.eos_token_ids: set[int] = set()
        self.tokenizer = TOKENIZER
        self.extend_end = 0

    @property
    def seqlen(self) -> int:
        return len(self.origin_input_ids) + len(self.output_ids)


class Batch:
    """What the penalisers see of a batch, with them."""

    def __init__(self, requests: list[Request], *, overlap: bool, kind: Any) -> None:
        self.reqs = requests
        self.device = "cpu"
        self.enable_overlap = overlap
        self.model_config = SimpleNamespace(is_encoder_decoder=False)
        for request in requests:
            request.sampled = len(request.output_ids)
            request.extend_end = request.seqlen
        self.seq_lens_cpu = torch.tensor([r.seqlen for r in requests], dtype=torch.int64)
        self.encoder_lens_cpu: list[int] = []
        self.penalties = kind(VOCABULARY, self, KINDS)

    def decode(self) -> None:
        """As SGLang prepares a decode step."""
        if self.penalties.is_required:
            last = [
                r.output_ids[-1] if len(r.output_ids) else r.origin_input_ids[-1] for r in self.reqs
            ]
            self.penalties.cumulate_output_tokens(torch.tensor(last, dtype=torch.int64))
        self.seq_lens_cpu = self.seq_lens_cpu + 1

    def merge(self, other: Batch) -> None:
        self.penalties.merge(other.penalties)
        self.reqs = self.reqs + other.reqs
        self.seq_lens_cpu = torch.cat([self.seq_lens_cpu, other.seq_lens_cpu])

    def keep(self, rows: list[int]) -> None:
        if len(rows) < len(self.reqs):
            self.reqs = [self.reqs[row] for row in rows]
            self.seq_lens_cpu = self.seq_lens_cpu[rows]
            if rows:
                self.penalties.filter(torch.tensor(rows))

    def rows(self) -> list[torch.Tensor]:
        """For each request what is added to its logits, and what they are scaled by."""
        added = torch.zeros(len(self.reqs), VOCABULARY)
        self.penalties.accumulate_additive_penalties(added)
        scaled = self.penalties.accumulate_scaling_penalties()
        factors = torch.ones_like(added) if scaled is None else scaled
        return list(torch.stack([added, factors], dim=1))


class Server:
    """The order in which SGLang's loop prepares steps and processes their results."""

    def __init__(
        self, requests: list[Request], *, overlap: bool, kind: Any = OutputPenalties
    ) -> None:
        self.requests = requests
        self.overlap = overlap
        self.kind = kind
        self.running: Batch | None = None
        self.last: Batch | None = None

    def is_running(self, request: Request) -> bool:
        self._join()
        return self.running is not None and request in self.running.reqs

    def admit(self, requests: list[Request]) -> Seen:
        self._join()
        return self._launch(Batch(requests, overlap=self.overlap, kind=self.kind))

    def decode(self) -> Seen:
        self._join()
        if self.running is None or not self.running.reqs:
            return []
        self.running.decode()
        return self._launch(self.running)

    def preempt(self, request: Request) -> None:
        """Before a step is prepared; what the request has in flight is lost."""
        self._join()
        assert self.running is not None
        self.running.keep([i for i, r in enumerate(self.running.reqs) if r is not request])
        request.sampled = len(request.output_ids)

    def _join(self) -> None:
        """The requests of a prefill run on in the running batch."""
        if self.last is None or self.last is self.running:
            return
        if self.running is None or not self.running.reqs:
            self.running = self.last
        else:
            self.running.merge(self.last)
        self.last = None

    def _launch(self, batch: Batch) -> Seen:
        """What each row is penalised by. With overlap the step before is processed only now."""
        seen = [(r, r.sampled, row) for r, row in zip(batch.reqs, batch.rows(), strict=True)]
        if self.overlap:
            self._process()
        for request in batch.reqs:
            request.sampled += 1
        if not self.overlap:
            self._process()
        self.last = batch
        return seen

    def _process(self) -> None:
        for request in self.requests:
            request.output_ids = array("q", request.answer[: request.sampled])


def alone(request: Request, *, overlap: bool) -> list[torch.Tensor]:
    """By how many tokens it has sampled: the penalties that SGLang's own classes give it alone."""
    same = Request(list(request.origin_input_ids), request.answer, request.sampling_params)
    server = Server([same], overlap=overlap, kind=BatchedPenalizerOrchestrator)
    seen = server.admit([same])
    while len(seen) < len(request.answer):
        seen += server.decode()
    return [row for _, _, row in seen]


tokens = st.integers(0, VOCABULARY - 1)
penalties = st.sampled_from([0.0, 0.1, 0.7, 1.5, -0.3])
parameters = st.builds(
    SamplingParams,
    frequency_penalty=penalties,
    presence_penalty=penalties,
    repetition_penalty=st.sampled_from([1.0, 1.1, 1.3, 0.7]),
    min_new_tokens=st.integers(0, 8),
    max_new_tokens=st.just(64),
)
requests = st.builds(
    Request,
    st.lists(tokens, min_size=1, max_size=4),
    st.lists(tokens, min_size=12, max_size=12),
    parameters,
)
# For each step, which of the requests are to be running.
schedules = st.lists(st.sets(st.integers(0, 2)), max_size=12)


@given(st.lists(requests, min_size=3, max_size=3), schedules, st.booleans())
def test_penalties_are_those_of_the_request_alone(
    served: list[Request], schedule: list[set[int]], overlap: bool
) -> None:
    """To the last bit, in every step, whatever is preempted, admitted or prefilled in between."""
    expected = {id(request): alone(request, overlap=overlap) for request in served}
    server = Server(served, overlap=overlap)
    for wanted in schedule:
        for i, request in enumerate(served):
            if i not in wanted and server.is_running(request):
                server.preempt(request)
        joining = [served[i] for i in sorted(wanted) if not server.is_running(served[i])]
        for request, sampled, row in server.admit(joining) if joining else server.decode():
            assert torch.equal(row, expected[id(request)][sampled])


def test_sglang_itself_forgets() -> None:
    """Why this is needed: its own penalisers start anew when a request is admitted again."""
    params = SamplingParams(frequency_penalty=1.5)
    request = Request([1], [5, 5, 6, 7, 8], params)
    expected = alone(request, overlap=False)
    server = Server([request], overlap=False, kind=BatchedPenalizerOrchestrator)
    server.admit([request])
    server.decode()
    server.preempt(request)
    ((_, sampled, row),) = server.admit([request])
    assert sampled == 2
    assert expected[2][0, 5] == -3.0
    assert row[0, 5] == 0.0


@given(requests, st.integers(1, 11), st.integers(1, 14))
def test_a_chunk_of_a_long_request_is_filled_as_far_as_it_goes(
    request_: Request, generated: int, chunk: int
) -> None:
    """A middle chunk samples nothing that is kept; the last one sees all of the output."""
    request_.output_ids = array("q", request_.answer[:generated])
    batch = Batch([request_], overlap=False, kind=BatchedPenalizerOrchestrator)
    end = min(chunk, request_.seqlen)
    request_.extend_end = end
    row = OutputPenalties(VOCABULARY, batch, KINDS)
    batch.penalties = row
    known = max(0, end - len(request_.origin_input_ids))
    assert torch.equal(batch.rows()[0], alone(request_, overlap=False)[known])


def test_an_encoders_tokens_count() -> None:
    """SGLang leaves them out of a row's length, but not out of the prompt."""
    request = Request([9, 9, 1], [4, 5, 6, 7, 8], SamplingParams(presence_penalty=1.0))
    server = Server([request], overlap=False)
    server.admit([request])
    assert server.last is not None
    batch = server.last
    batch.model_config.is_encoder_decoder = True
    batch.encoder_lens_cpu = [2]
    batch.seq_lens_cpu = batch.seq_lens_cpu - 2
    server.decode()
    ((_, sampled, row),) = server.decode()
    assert sampled == 2
    assert row[0].nonzero().flatten().tolist() == [4, 5]
