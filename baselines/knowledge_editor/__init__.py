"""KnowledgeEditor (De Cao, Aziz, Titov, EMNLP 2021)."""

from kebench.baselines.knowledge_editor.editor import KnowledgeEditor

__all__ = ["KnowledgeEditor"]
