"""Stored generations, replayed as an lm-eval model."""

import json
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from rac.errors import RacError
from rac.evaluate.harness import as_messages
from rac.evaluate.thoughts import answer_part


class Response(str):
    """What the task sees: the answer after the thought, as lm-eval's own models hand it over.

    `full` is the whole response, `finished` whether the model stopped by itself. lm-eval casts gold
    answers to the type of the response, so both have defaults.
    """

    full: str
    finished: bool

    def __new__(cls, text: str, full: str | None = None, finished: bool = True) -> "Response":
        response = super().__new__(cls, text)
        response.full = text if full is None else full
        response.finished = finished
        return response


class Replay(LM):
    """Answers each request with the stored generation of its problem: one sample, one pass."""

    def __init__(self, requests: dict[int, dict], generations: dict[int, dict]) -> None:
        """Rows of requests.jsonl.zst and of generations.jsonl.zst (of one sample) by `doc_id`."""
        super().__init__()
        self._requests = requests
        self._generations = generations

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages, as they were when the requests were made."""
        return as_messages(chat_history, add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """What tells lm-eval's cached contexts apart; none are cached."""
        return ""

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Stored responses, cut at the stop strings of the task after the thought.

        Raises:
            RacError: a request is not the one that was answered.
        """
        return [self._answer(r.args[0], r.args[1], r.doc_id) for r in requests]

    def _answer(self, context: str, settings: dict, doc_id: int | None) -> Response:
        stored = self._requests.get(doc_id) if doc_id is not None else None
        if stored is None or json.loads(context) != stored["messages"]:
            raise RacError(
                f"the request of problem {doc_id} is not the one that was answered: "
                "the data or the task changed since; make the requests again and generate again"
            )
        generation = self._generations[stored["doc_id"]]
        full = stored["opening"] + generation["text"]
        finished = generation["finish_reason"] == "stop"
        answer = (answer_part(full, finished)[0] or "").lstrip()
        stops = settings.get("until") or []
        for stop in [stops] if isinstance(stops, str) else stops:
            if stop:
                answer = answer.split(stop)[0]
        return Response(answer, full, finished)

    def loglikelihood(self, requests: list[Instance]) -> Any:
        """Never asked: tasks are checked to be of type generate_until."""
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance]) -> Any:
        """Never asked: tasks are checked to be of type generate_until."""
        raise NotImplementedError
