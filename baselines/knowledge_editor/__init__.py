"""KnowledgeEditor (De Cao, Aziz, Titov, EMNLP 2021)."""

from .editor import KnowledgeEditor

__all__ = ["KnowledgeEditor"]
