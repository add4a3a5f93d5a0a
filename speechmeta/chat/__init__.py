"""Conversations about recordings with DeSTA2 and DeSTA2.5-Audio."""
