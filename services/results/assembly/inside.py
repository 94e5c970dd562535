"""What was found inside the sample, in its report: before it is sealed, and after, whenever a child was judged."""

from collections.abc import Sequence

from services.results.domain.report import Child, Report
from services.results.policy.contained import is_of_contained
from services.results.policy.verdict import weighed


def with_children(report: Report, children: Sequence[Child], *, left_out: int) -> Report:
    """The same report with these children, and the verdict that follows from its own evidence and from theirs."""
    own = [reason for reason in report.reasons if not is_of_contained(reason)]
    has_run = any(process.exe or process.argv for process in report.processes)
    judgement = weighed(own, children, has_run=has_run)
    return report.model_copy(
        update={
            "children": tuple(children),
            "children_left_out": left_out,
            "verdict": judgement.verdict,
            "score": judgement.score,
            "reasons": judgement.reasons,
        }
    )
