"""From a recording to turns: channels, crosstalk, voice activity, chunks of long audio."""
